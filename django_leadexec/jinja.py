"""The button for Jinja2: `environment.globals["leadexec_button"] = leadexec_button`."""

from django.utils.safestring import SafeString
from jinja2 import pass_context
from jinja2.runtime import Context

from .button import render_button, request_from


@pass_context
def leadexec_button(
    context: Context, *, label: str = "", next: str = "", css_class: str = "", load: str = "page"
) -> SafeString:
    """The LeadExec button; `next` is the local path to go to after signing in.

    `load` is "page", or "click": then nothing of LeadExec's is fetched before the visitor asks.
    """
    request = request_from(context)
    return render_button(
        request=request, label=label, next_url=next, css_class=css_class, load=load
    )
