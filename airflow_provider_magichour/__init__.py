"""Make images, videos and audio at Magic Hour from Airflow."""

from __future__ import annotations

from typing import Any

__version__ = "0.2.0"

#: The Airflow connection that is used where none is named.
DEFAULT_CONN_ID = "magichour_default"

# What a connection has where it says nothing: the one place for the code, the form and the docs.
DEFAULT_BASE_URL = "https://api.magichour.ai"
#: Seconds that one try of a call may take.
DEFAULT_TIMEOUT = 60
#: Tries of a call that may be repeated.
DEFAULT_MAX_ATTEMPTS = 5
#: Calls that one process sends in a second.
DEFAULT_REQUESTS_PER_SECOND = 500
#: Connections that one process keeps open while it works on many projects.
DEFAULT_MAX_CONNECTIONS = 100


def get_provider_info() -> dict[str, Any]:
    """Describe this provider to Airflow, which finds it by the ``apache_airflow_provider`` entry point."""
    package = __name__
    integration = "Magic Hour"

    def modules(name: str) -> list[dict[str, Any]]:
        return [{"integration-name": integration, "python-modules": [f"{package}.{name}"]}]

    return {
        "package-name": "airflow-provider-magichour",
        "name": integration,
        "description": "Make images, videos and audio at `Magic Hour <https://magichour.ai/>`__: verified "
        "files in your storage, paid once, and no worker waits.",
        "integrations": [
            {
                "integration-name": integration,
                "external-doc-url": "https://docs.magichour.ai",
                "tags": ["service"],
            }
        ],
        "hooks": modules("hooks"),
        "operators": modules("operators"),
        "sensors": modules("sensors"),
        "triggers": modules("triggers"),
        "connection-types": [
            {
                "connection-type": "magichour",
                "hook-class-name": f"{package}.hooks.MagicHourHook",
                "hook-name": integration,
                "ui-field-behaviour": _FIELD_BEHAVIOUR,
                "conn-fields": _CONNECTION_FIELDS,
            }
        ],
        "extra-links": [f"{package}.links.MagicHourProjectLink", f"{package}.links.MagicHourMediaLink"],
        "plugins": [
            {
                "name": "magichour_webhooks",
                "plugin-class": f"{package}.webhooks.MagicHourWebhooksPlugin",
            },
            {"name": "magichour_view", "plugin-class": f"{package}.ui.MagicHourViewPlugin"},
        ],
        "asset-uris": [{"schemes": ["magichour"], "handler": f"{package}.webhooks.events.sanitize_uri"}],
        "config": {
            "magichour": {
                "description": "Magic Hour's view and webhooks in the API server: see the provider's docs.",
                "options": _CONFIG_OPTIONS,
            }
        },
    }


def _config_option(
    description: str, *, type_: str = "string", default: str = "", **more: Any
) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.2.0",
        "type": type_,
        "default": default,
        "example": None,
        **more,
    }


_CONFIG_OPTIONS: dict[str, Any] = {
    "view_roots": _config_option(
        "The destinations whose media the view in Airflow's UI shows, separated by commas. Empty: it is off. "
        "Airflow 3.1 and newer; set it for all of Airflow's components.",
        example="s3://aws_default@my-bucket/media",
    ),
    "webhooks": _config_option(
        "Whether the API server accepts Magic Hour's webhooks at ``/magichour/webhooks/{connection id}``.",
        type_="boolean",
        default="False",
    ),
    "webhooks_connections": _config_option(
        "The connections that webhooks are accepted for, separated by commas. Each needs a webhook secret.",
        default="magichour_default",
    ),
    "webhooks_airflow_url": _config_option(
        "Where this Airflow's REST API is. Default: the API server's own port on 127.0.0.1.",
    ),
    "webhooks_username": _config_option("The user that creates the asset events."),
    "webhooks_password": _config_option("That user's password.", sensitive=True),
    "webhooks_token": _config_option("An access token, instead of user and password.", sensitive=True),
}


_FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["login", "schema"],
    "relabeling": {"host": "Base URL", "password": "API key"},
    "placeholders": {
        "host": f"{DEFAULT_BASE_URL} (the default)",
        # Airflow 3.3.2 sends 0 for an empty port when its Test button is pressed, and then refuses that as
        # another connection than the stored one.
        "port": "443 (without a port, Airflow 3.3 does not test a connection)",
        "password": "mhk_live_... from https://magichour.ai/developer?tab=api-keys",
        "timeout": f"{DEFAULT_TIMEOUT}",
        "max_attempts": f"{DEFAULT_MAX_ATTEMPTS}",
        "requests_per_second": f"{DEFAULT_REQUESTS_PER_SECOND}",
        "max_connections": f"{DEFAULT_MAX_CONNECTIONS}",
        "submit_records": "s3://bucket/magichour",
        "catalog": "s3://bucket/media",
    },
}

# What is optional may be null: the form then leaves the field out.
_CONNECTION_FIELDS: dict[str, Any] = {
    "timeout": {
        "label": "Timeout",
        "description": f"Seconds for one try of one call. Default: {DEFAULT_TIMEOUT}.",
        "schema": {"type": ["number", "null"], "minimum": 0},
    },
    "max_attempts": {
        "label": "Attempts",
        "description": f"Tries of a call that may be repeated. Default: {DEFAULT_MAX_ATTEMPTS}.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "requests_per_second": {
        "label": "Requests per second",
        "description": "The most that one process sends over this connection. "
        f"Default: {DEFAULT_REQUESTS_PER_SECOND}.",
        "schema": {"type": ["number", "null"], "minimum": 0},
    },
    "max_connections": {
        "label": "Connections",
        "description": "The most that one process keeps open to work on many projects. "
        f"Default: {DEFAULT_MAX_CONNECTIONS}.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "submit_records": {
        "label": "Submit records",
        "description": "A folder in object storage where create calls are recorded, so that no retry pays "
        "twice. Needed on Airflow before 3.3 for create tasks; each deployment has a folder of its own.",
        "schema": {"type": ["string", "null"]},
    },
    "catalog": {
        "label": "Catalogue",
        "description": "A folder in object storage where create tasks and sensors record projects and their "
        "cost, as downloads do at their destination. Empty: they record nothing.",
        "schema": {"type": ["string", "null"]},
    },
    "webhook_secret": {
        "label": "Webhook secret",
        "description": "Signs the events that Magic Hour sends; without it, this connection takes none.",
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "allow_private_hosts": {
        "label": "Allow private hosts",
        "description": "Whether files may come from and go to private addresses. Default: yes.",
        "schema": {"type": ["boolean", "null"], "default": True},
    },
}
