"""A web server for one model: photos and words in, masks out.

    from maskclip_jax.deploy.server import create_app

    app = create_app(maskclip_jax.load('MODEL'), 'MODEL')  # for any ASGI server

The event loop reads requests and writes answers and never computes; threads decode
photos and encode results; one thread owns the model (`engine.py`). Needs
`pip install 'maskclip_jax[serve]'`.
"""

from maskclip_jax.deploy.server.app import create_app
from maskclip_jax.deploy.server.settings import Settings

__all__ = ['Settings', 'create_app']
