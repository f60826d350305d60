"""OpenTelemetry records each request of the site, and each call that it makes, with its URL."""

from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

recorded = InMemorySpanExporter()


def trace_everything() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(recorded))
    trace.set_tracer_provider(provider)
    for instrumentor in (DjangoInstrumentor, RequestsInstrumentor, URLLib3Instrumentor):
        instrumentor().instrument()


def more() -> dict[str, Any]:
    spans = [span.to_json() for span in recorded.get_finished_spans()]
    return {
        "records the site's own requests": any("leadexec/callback" in span for span in spans),
        "records the calls to the provider": any("refreshaccesstoken" in span for span in spans),
        "records no token": [span for span in spans if "acme-1" in span] == [],
    }
