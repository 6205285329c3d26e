"""The one router that all routes of this dialect are on."""

from fastapi import APIRouter

router = APIRouter(include_in_schema=False)
