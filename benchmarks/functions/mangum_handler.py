"""The FastAPI application as a handler of Mangum's, which does not stream."""

from fastapi_app import app
from mangum import Mangum

handler = Mangum(app, lifespan="off")
