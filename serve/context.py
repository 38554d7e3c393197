"""What the app of a request holds."""

from fastapi import Request

from serve.engine import Engine
from serve.metrics import Metrics
from serve.settings import Settings


def engine_of(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def metrics_of(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


def settings_of(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings
