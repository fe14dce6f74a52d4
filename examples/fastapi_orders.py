"""A FastAPI service that checks keys in its own process. Run it with `uvicorn fastapi_orders:app`.

KEYAUTHORITY_ADDRESS is the address of the authority, KEYAUTHORITY_OPERATOR_KEY the service's key.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI

from keyauthority import AsyncClient, AsyncVerifier, Verdict
from keyauthority.middleware.fastapi import RequireKey


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep a verifier open while the service runs."""
    authority = AsyncClient(
        os.environ["KEYAUTHORITY_ADDRESS"],
        operator_key=os.environ["KEYAUTHORITY_OPERATOR_KEY"],
    )
    async with authority, AsyncVerifier(authority) as verifier:
        app.state.verifier = verifier
        yield


app = FastAPI(lifespan=lifespan)
Reader = Annotated[Verdict, Depends(RequireKey("orders:read"))]


@app.get("/orders")
async def orders(caller: Reader) -> dict[str, str]:
    """List the orders of the caller's project."""
    return {"project_id": caller.project_id, "access_key": caller.access_key}
