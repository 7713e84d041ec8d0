"""The guide for engine authors must be true: its code runs, as it stands there."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
GUIDE = ROOT / "docs/engine-authors.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
FILES = {
    match[1]: block for block in BLOCKS if (match := re.match(r"# (\w+\.py)\n", block)) is not None
}


def test_the_guides_engine_passes_the_guides_test(tmp_path: Path) -> None:
    for name, block in FILES.items():
        (tmp_path / name).write_text(block)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-o", "trio_mode=true", "-W", "error"),
            *("-p", "no:cacheprovider", "--rootdir", ".", "test_bank_engine.py"),
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("target", ["petty_cash:connect", "bank_engine:create_engine"])
def test_the_guides_engines_load(target: str, tmp_path: Path) -> None:
    for name, block in FILES.items():
        (tmp_path / name).write_text(block)
    code = f"from settled.engine.loading import load; load({target!r})"
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True
    )


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_python(block: str) -> None:
    compile(block, "guide", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_every_link_within_the_guide_leads_somewhere() -> None:
    text = GUIDE.read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors
    for path in re.findall(r"`((?:engines|tests)/[\w/]+\.py)`", text):
        assert (ROOT / path).is_file(), path
