"""Look the pinned dependencies up in the advisories that the package index keeps, by pip-audit.

Exit status 1 where a version has a known vulnerability that a newer version mends. Where pip-audit
can't be had, or the index answers no advisories (offline, or a mirror without them), the reason is
printed and the status is 0: a check that needs the network must not fail without it.
"""

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_PIP_AUDIT = "pip-audit==2.10.1"
_INSTALL_S, _AUDIT_S = 180, 240


def main() -> int:
    """Audit, and return the exit status."""
    with tempfile.TemporaryDirectory(prefix="routoo-audit-") as name:
        found = _audit(Path(name))
    if isinstance(found, str):
        print(f"not audited: {found}")
        return 0
    vulnerable = [(one, flaw) for one in found for flaw in one.get("vulns", ())]
    for one, flaw in vulnerable:
        mended = ", ".join(flaw["fix_versions"]) or "no version yet"
        print(f"{one['name']} {one['version']}: {flaw['id']}, mended in {mended}")
    audited = sum("vulns" in one for one in found)
    print(f"{audited} of {len(found)} dependencies audited, {len(vulnerable)} vulnerabilities")
    return int(any(flaw["fix_versions"] for _, flaw in vulnerable))


def _audit(folder: Path) -> list[dict[str, Any]] | str:
    """Return what is known of each dependency, or why nothing is."""
    # Apart from ours: its own dependencies are none of the project's.
    venv.create(folder, with_pip=True)
    try:
        _run(_INSTALL_S, folder / "bin" / "pip", "install", "--quiet", _PIP_AUDIT)
    except (subprocess.SubprocessError, OSError) as error:
        return f"pip-audit can't be installed ({_last_line(error)})"
    options = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json")
    constraints = ("--requirement", ROOT / "constraints.txt")
    try:
        said = _run(_AUDIT_S, folder / "bin" / "pip-audit", *options, *constraints)
        found: list[dict[str, Any]] = json.loads(said)["dependencies"]
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        return f"the advisories can't be read ({_last_line(error)})"
    if not any("vulns" in one for one in found):
        return "the package index answers no advisories here"
    return found


def _run(timeout_s: float, *command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if not done.stdout.strip() and done.returncode:  # pip-audit ends with 1 where it finds some
        raise subprocess.SubprocessError(done.stderr.strip() or f"exit {done.returncode}")
    return done.stdout


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:200]


if __name__ == "__main__":
    sys.exit(main())
