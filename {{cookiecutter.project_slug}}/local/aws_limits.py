"""What AWS allows: the figures and lists of `aws_limits.toml`, which says where each comes from."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

AWS_LIMITS: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
MB = 1024 * 1024
