"""NiiVue, a viewer of volumes for the browser, out of the package that carries it."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

from ..errors import UsageError

#: Text that is percent-encoded and longer than anything else of its kind.
_ENCODED = re.compile(r'"([\w%.!~*\'()-]{1000000,})"', re.ASCII)


@lru_cache(maxsize=1)
def niivue_module() -> bytes:
    """Return NiiVue as a JavaScript module that exports its class ``Niivue``.

    ipyniivue is a widget for notebooks. Its bundle holds NiiVue a second time, whole and
    percent-encoded, for the pages that the widget saves; that copy needs no notebook.

    Raises
    ------
    UsageError
        If ipyniivue is absent, or its bundle holds no such copy.
    """
    # Not imported, since that would import all that notebooks need.
    found = find_spec('ipyniivue')
    if found is None or found.origin is None:
        raise UsageError('NiiVue is not installed; pip install "ipyniivue>=2.4"')
    bundle = Path(found.origin).with_name('static') / 'widget.js'
    encoded = _ENCODED.search(bundle.read_text(encoding='utf-8')) if bundle.is_file() else None
    module = unquote(encoded[1]) if encoded else ''
    if not re.search(r'export\{[^}]*\bNiivue\b', module):
        raise UsageError(f'{bundle}: holds no NiiVue; pip install ipyniivue==2.4.4')
    return module.encode()
