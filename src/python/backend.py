"""Builds the wheel of this package, as PEP 517 asks: the files of `machnet`, and what describes them."""

import base64
import hashlib
import pathlib
import re
import zipfile

HERE = pathlib.Path(__file__).parent
PROJECT = (HERE / "pyproject.toml").read_text()


def field(name):
    """A text of the project's table."""
    return re.search(rf'^{name} = "(.*)"$', PROJECT, re.MULTILINE)[1]


NAME, VERSION = field("name"), field("version")
STEM = f"{NAME.replace('-', '_')}-{VERSION}"


def described():
    """The files that describe the wheel, by their names in it."""
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {NAME}",
        f"Version: {VERSION}",
        f"Summary: {field('description')}",
        f"Requires-Python: {field('requires-python')}",
        "License: MIT",
        "Description-Content-Type: text/markdown",
        "",
        (HERE / "README.md").read_text(),
    ]
    wheel = ["Wheel-Version: 1.0", "Generator: machnet-shards", "Root-Is-Purelib: true", "Tag: py3-none-any", ""]
    return {
        f"{STEM}.dist-info/METADATA": "\n".join(metadata).encode(),
        f"{STEM}.dist-info/WHEEL": "\n".join(wheel).encode(),
    }


def build_wheel(directory, config_settings=None, metadata_directory=None):
    """Makes the wheel and gives its name."""
    files = {f"machnet/{path.name}": path.read_bytes() for path in sorted((HERE / "machnet").glob("*.py"))}
    files["machnet/py.typed"] = b""
    files.update(described())
    record = f"{STEM}.dist-info/RECORD"
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}")
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    wheel = f"{STEM}-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(directory) / wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return wheel
