"""Client of PiMoE's HTTP API. Requests and answers are dictionaries, typed in pimoe_client.models."""

from ._operations import Client
from ._transport import ApiError

__all__ = ["ApiError", "Client"]
