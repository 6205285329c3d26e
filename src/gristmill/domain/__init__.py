"""The rules, pure: no I/O, no clock, no imports from any other room."""
