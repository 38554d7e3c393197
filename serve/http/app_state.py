"""The parts of the app that requests use."""

from fastapi import Request

from serve.engine.engine import ServingEngine
from serve.metrics import Metrics
from serve.settings import Settings


def engine_of(request: Request) -> ServingEngine:
    engine: ServingEngine = request.app.state.engine
    return engine


def metrics_of(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


def settings_of(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings
