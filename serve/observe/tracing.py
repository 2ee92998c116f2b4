"""OpenTelemetry spans of calls, if server.traces is set.

The SDK reads its own standard variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, ...).
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from serve.errors import SettingsError

# Opens the span of a call: method, metadata, request id.
Spans = Callable[[str, Mapping[str, str], str], AbstractContextManager[Any]]


def no_spans(method: str, metadata: Mapping[str, str], request_id: str) -> AbstractContextManager[Any]:
    """Open no span."""
    return nullcontext()


def open_spans() -> tuple[Spans, Callable[[], None]]:
    """Return a function that opens a call's span, as a child of the caller's, and one that sends the last spans.

    Raises:
        SettingsError: If OpenTelemetry is not installed.
    """
    try:
        from opentelemetry import propagate, trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError("server.traces needs OpenTelemetry: pip install 'kinodex[tracing]'") from error
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override this name.
    provider = TracerProvider(resource=Resource.create({"service.name": "kinodex"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("kinodex")

    def span(method: str, metadata: Mapping[str, str], request_id: str) -> AbstractContextManager[Any]:
        service, _, name = method.rpartition("/")
        attributes = {
            "rpc.system": "grpc", "rpc.service": service, "rpc.method": name, "kinodex.request_id": request_id
        }  # fmt: skip
        return tracer.start_as_current_span(
            method, context=propagate.extract(metadata), kind=trace.SpanKind.SERVER, attributes=attributes
        )

    return span, provider.shutdown
