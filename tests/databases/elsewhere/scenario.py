"""Works through what the package does on a site whose tables are on ``site``.

Prints what came of it as one JSON object.
"""

import io
import json
import sys
import uuid
from typing import Any

import django
from django.conf import settings


def main() -> None:
    django.setup()
    from django.contrib.auth import get_user_model
    from django.core.management import CommandError, call_command
    from django.test import Client
    from django.test.utils import setup_test_environment

    from django_leadexec.models import LeadExecConnection, PendingRevocation
    from django_leadexec.refresh import refresh_due
    from django_leadexec.visitor_mark import mark_of
    from tests.factories import make_connection
    from tests.provider import Provider, unavailable
    from tests.sockets import apis_at

    setup_test_environment()
    call_command("migrate", run_syncdb=True, verbosity=0, database="site")
    users: Any = get_user_model()._default_manager
    connections = LeadExecConnection.objects.using("site")

    def make(token: str, **fields: Any) -> LeadExecConnection:
        user = users.create(id=uuid.uuid4(), handle=token)
        return make_connection(token, user=user, using="site", **fields)

    def run(name: str, *flags: str) -> Any:
        out = io.StringIO()
        call_command(name, "--json", *flags, stdout=out)
        return json.loads(out.getvalue())

    def refused(*command: str) -> int:
        try:
            run(*command)
        except CommandError as error:
            return error.returncode
        return 0

    def post(client: Client, path: str, **body: Any) -> Any:
        return client.post(path, json.dumps(body), content_type="application/json").json()

    seen: dict[str, Any] = {}
    with Provider() as provider:
        settings.DEBUG = True
        settings.LEADEXEC |= {"BASE_URL": provider.url} | apis_at(provider.url)

        make("command", expires_in=-1)
        make("not-due")
        seen["dry run"] = run("refresh_leadexec_tokens", "--dry-run")["due"]
        seen["command"] = run("refresh_leadexec_tokens")["refreshed"]
        seen["command again"] = run("refresh_leadexec_tokens", "--database", "site")["refreshed"]
        seen["all"] = run("refresh_leadexec_tokens", "--all")["refreshed"]
        seen["wrong databases"] = [
            refused(name, "--database", alias)
            for name in ("refresh_leadexec_tokens", "leadexec_status", "rotate_leadexec_keys")
            for alias in ("default", "nowhere")
        ]
        make("task", expires_in=-1)
        seen["task"] = refresh_due()["refreshed"]
        seen["rotated"] = run("rotate_leadexec_keys")["current"]

        row = make("page", expires_in=-1)
        seen["page"] = row.get_access_token()
        seen["lives"] = connections.get(pk=row.pk).lives(3_000)
        seen["revoked"] = row.revoke()
        provider.answers["disconnect later"] = unavailable
        seen["revoked later"] = make("later").revoke()

        client = Client()
        user = users.create(id=uuid.uuid4(), handle="ada")
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        answer = post(
            client, "/leadexec/callback/", token="posted", gesture=True, visitor=mark_of(user)
        )
        seen["callback"] = answer["status"]
        client.post("/leadexec/disconnect/")
        seen["disconnected"] = connections.get(user=user).status

        for token in ("moved", "deleted"):
            make(token)
        LeadExecConnection.objects.filter(user__handle="moved").move_to_outbox()
        LeadExecConnection.objects.filter(user__handle="deleted").delete()
        seen["of handles"] = [
            connections.filter(user__handle="moved").get().status,
            connections.filter(user__handle="deleted").count(),
        ]

        users.get(handle="task").delete()
        status = run("leadexec_status")
        seen["status"] = {key: status[key] for key in ("active", "revoked", "pending_revocations")}
        PendingRevocation.objects.using("site").update(retry_after="2020-01-01")
        del provider.answers["disconnect later"]
        seen["told"] = run("refresh_leadexec_tokens")["revoked"]
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
