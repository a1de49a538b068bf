"""The messages of the control socket are known when the modules that define them are loaded."""

import xenmoved.control.api
import xenmoved.control.peer_api  # noqa: F401
