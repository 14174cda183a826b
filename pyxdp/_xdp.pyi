# SPDX-License-Identifier: Apache-2.0
# The extension module that meson builds from api.h. Its calls are listed and typed there, and
# cffi checks every argument; a copy of the list here would only be one more to keep.
from typing import Any

ffi: Any
lib: Any
