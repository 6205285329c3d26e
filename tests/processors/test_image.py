"""Images: by size and shape first, then by the model's eyes; where nobody has judged, it says so."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from fakes.answers import answer as usual
from fakes.wire import Request, error
from fakes.world import World
from gristmill.domain.outcomes import Failure, Outcome, Retry, Success
from gristmill.processors import validate, validate_config
from gristmill.processors.image import MAX_CONTENT_BYTES, Image, ImageConfig


def picture(path: Path, width: int = 640, height: int = 480) -> Path:
    Pillow.new("RGB", (width, height), "white").save(path)
    return path


async def run(world: World, path: Path, **config: Any) -> Outcome:
    given = {"source": str(path), "source_type": "local"}
    return await world.run(Image(), given, ImageConfig(**config))


async def importance(world: World, path: Path, **config: Any) -> dict[str, Any]:
    outcome = await run(world, path, **config)
    assert isinstance(outcome, Success), outcome
    found: dict[str, Any] = outcome.output["importance"]
    return found


def says(important: bool, confidence: float) -> Any:
    def script(request: Request) -> tuple[int, dict[str, Any]]:
        status, body = usual(request)
        body["choices"][0]["message"]["content"] = json.dumps(
            {"important": important, "confidence": confidence}
        )
        return status, body

    return script


async def test_the_model_sees_the_image_and_the_prompts(reading: World, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    reading.llm.script = says(True, 0.75)
    outcome = await run(
        reading, path, positive_prompt="mills", negative_prompt="logos", parameters={"seed": 7}
    )
    assert isinstance(outcome, Success)
    assert outcome.output == {
        "media_type": "image/png", "filename": "a.png", "bytes": path.stat().st_size, "width": 640, "height": 480,
        "importance": {"judged": True, "is_important": True, "confidence": 0.75, "reason": "judged_by_model"},
    }  # fmt: skip
    assert outcome.usage is not None
    [request] = reading.llm.requests
    system, user = request.body["messages"]
    assert "mills" in system["content"]
    assert "logos" in system["content"]
    [part] = user["content"]
    assert part["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    assert request.body["seed"] == 7


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((199, 800), "too_small"),
        ((800, 199), "too_small"),
        ((1201, 240), "too_elongated"),
        ((240, 1201), "too_elongated"),
    ],
)
async def test_small_and_elongated_images_are_not_important_and_nobody_is_asked(
    reading: World, tmp_path: Path, size: tuple[int, int], reason: str
) -> None:
    found = await importance(reading, picture(tmp_path / "a.png", *size))
    assert found == {"judged": True, "is_important": False, "confidence": 1.0, "reason": reason}
    assert reading.llm.requests == []


async def test_the_borders_of_the_rules_are_inside(reading: World, tmp_path: Path) -> None:
    reading.llm.script = says(False, 1)
    for size in ((200, 200), (1000, 200)):
        assert (await importance(reading, picture(tmp_path / "a.png", *size)))["reason"] == "judged_by_model"


async def test_where_nobody_can_judge_it_says_so(reading: World, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    nobody = {"judged": False, "is_important": None, "confidence": None}
    blind = replace(reading, services=replace(reading.services, upstream=None))
    assert await importance(blind, path) == nobody | {"reason": "upstream_not_configured"}
    assert await importance(reading, path, judge=False) == nobody | {"reason": "not_asked"}
    reading.llm.script = lambda request: (400, error("this model takes no images"))
    assert await importance(reading, path) == nobody | {"reason": "upstream_rejected"}
    reading.llm.script = says(True, 7)  # no confidence
    assert await importance(reading, path) == nobody | {"reason": "invalid_output"}


async def test_an_outage_of_the_model_is_waited_for(reading: World, tmp_path: Path) -> None:
    reading.llm.always = "status:503"
    outcome = await run(reading, picture(tmp_path / "a.png"))
    assert isinstance(outcome, Retry)
    assert outcome.waiting


async def test_the_content_is_there_on_request_up_to_a_size(reading: World, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    outcome = await run(reading, path, judge=False, content=True)
    assert isinstance(outcome, Success)
    assert base64.b64decode(outcome.output["content"]) == path.read_bytes()
    out = io.BytesIO()
    Pillow.effect_noise((3000, 3000), 90).save(out, "PNG")
    assert len(out.getvalue()) > MAX_CONTENT_BYTES
    path.write_bytes(out.getvalue())
    outcome = await run(reading, path, judge=False, content=True)
    assert isinstance(outcome, Success)
    assert outcome.output["content"] is None


async def test_what_is_no_image_fails(reading: World, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a png")
    outcome = await run(reading, tmp_path / "a.png")
    assert isinstance(outcome, Failure)
    assert (outcome.error.code, outcome.error.type) == (400, "unsupported_type")


def test_a_text_is_no_image() -> None:
    _, [problem] = validate(Image(), [{"text": "a"}])
    assert problem.code == "no_file"
    _, [problem] = validate_config(Image(), {"max_aspect": 0.5})
    assert problem.pointer == "/config/max_aspect"
