"""The storage that the settings name."""

from importlib.util import find_spec

from gristmill.settings import Settings
from gristmill.storage.base import Storage
from gristmill.storage.local import LocalStorage
from gristmill.storage.location import Location, Options, location
from gristmill.storage.sources import Objects


def open_storage(settings: Settings) -> Storage:
    """Raises ValueError with a sentence for the operator."""
    if settings.storage_url is None:
        return LocalStorage(settings.data_dir)
    return _s3("GRISTMILL_STORAGE_URL", settings.storage_url, settings)


def open_objects(settings: Settings) -> Objects | None:
    """What callers may name as `s3` or `minio` sources; None: nothing. Raises ValueError."""
    if settings.s3_root is None:
        return None
    hidden = None
    if settings.storage_url is not None:
        hidden = _location("GRISTMILL_STORAGE_URL", settings.storage_url)
    root = _location("GRISTMILL_S3_ROOT", settings.s3_root)
    return Objects(root, _s3("GRISTMILL_S3_ROOT", settings.s3_root, settings), hidden)


def _s3(setting: str, url: str, settings: Settings) -> Storage:
    where = _location(setting, url)
    if find_spec("obstore") is None:
        raise ValueError(f"{setting} needs the extra: install gristmill[s3]")
    from gristmill.storage.s3 import S3Storage  # only here: the library is an extra

    return S3Storage(where, _options(settings))


def _location(setting: str, url: str) -> Location:
    try:
        return location(url)
    except ValueError as error:
        raise ValueError(f"{setting} {error}") from None


def _options(settings: Settings) -> Options:
    def plain(name: str) -> str | None:
        secret = getattr(settings, name)
        return None if secret is None else secret.get_secret_value()

    return Options(
        endpoint=settings.s3_endpoint_url,
        region=settings.s3_region,
        access_key_id=plain("s3_access_key_id"),
        secret_access_key=plain("s3_secret_access_key"),
    )
