# SPDX-License-Identifier: Apache-2.0
"""The JSON document of a verb: the same first two keys for all of them, whatever happened."""

from __future__ import annotations

import dataclasses
import json
from typing import Any


def document(report: Any, exit_code: int) -> str:
    """Return a report (a dataclass) as JSON text, with `ok` and `exit_code` of the verb."""
    return _text({**_outcome(exit_code), **dataclasses.asdict(report)})


def failure(line: str, exit_code: int) -> str:
    """Return the JSON text of an error that left no report."""
    return _text({**_outcome(exit_code), "error": line})


def _outcome(exit_code: int) -> dict[str, bool | int]:
    return {"ok": exit_code == 0, "exit_code": exit_code}


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2)
