"""
A local Magic Hour: the whole API, real media files, and faults on request.

From the command line::

    python -m airflow_provider_magichour.simulator --speed-up 20

From Python, or in a test::

    with Simulator(duration=0.2) as magichour:
        magichour.url, magichour.downloads_url, magichour.api_key, magichour.connection_uri
        magichour.faults({"match": {"route": "get_project"}, "status": 503, "times": 2})
        magichour.state()["requests"]

With pytest: ``pytest_plugins = ["airflow_provider_magichour.simulator.fixtures"]`` in the ``conftest.py``
at the top, and the fixture ``magichour_simulator``. The settings are those of
:class:`~airflow_provider_magichour.simulator.settings.Settings`.

Two hosts (ports): the API, which wants the key as ``Authorization: Bearer``, and the files host of the
signed URLs, which answers 400 to whoever shows the key there, and counts it (``leaked_keys``).

**Calls of its own**, below ``/_simulator`` of the API's host; :class:`Simulator` has a method for each:

==========================================  =============================  ===============================
``GET /state`` (``?projects=false``)        ``state(projects=True)``       counters and what is remembered
``GET /ledger`` (``?account_id=``)          ``ledger(account_id=None)``    each charge and refund
``POST /accounts`` ``{"key"}``              ``add_account(key)``           another account; gives its id
``POST /api-keys`` ``{"key"}``              ``add_api_key(key)``           the account has another key
``DELETE /api-keys/{key}``                  ``revoke_api_key(key)``        a key is refused
``GET /requests`` (``?route=&limit=``)      ``requests(route=None)``       each request, oldest first
``POST /faults`` (a list of rules)          ``faults(*rules, seed=None)``  more faults
``GET /faults``, ``DELETE /faults``         ``clear_faults()``             the faults in force; none
``POST /reset``                             ``reset()``                    forget everything
``POST /projects/{id}`` ``{"status"}``      ``end_project(id, status)``    end a project now
``POST /projects/{id}/webhook`` ``{event}`` ``send_event(id, event)``      send its webhook again
``PUT /webhooks``, ``DELETE /webhooks``     ``send_webhooks(url, secret)`` where webhooks go
..                                          ``offline()``                  nothing listens, for a while
..                                          ``digests(id)``                sha256 of its outputs, by name
==========================================  =============================  ===============================

**A fault** is an object with these fields, all optional. The first rule that matches a request, and is not
used up, applies to it; rules after it wait for later requests, so a list is a sequence.

Which requests:

- ``match``: ``host`` (``api``, ``downloads``), ``method``, ``path`` (with ``*``), ``kind``, ``tool``,
  ``project_id`` and ``route``: ``create_project``, ``get_project``, ``delete_project``, ``upload_urls``,
  ``create_face_detection``, ``get_face_detection``, ``get_account``, ``list_saved_items``, ``download``,
  ``upload``. All that are given must match.
- ``times``: for so many requests (default: all); ``skip``: not for the first so many; ``probability``:
  only for this share of them, 0 to 1.

What goes wrong with the connection:

- ``delay``: seconds before the request is read; ``delay_after``: seconds between carrying it out and
  answering.
- ``drop``: ``before`` (it is never read) or ``after`` (it is carried out, a project is made and paid, but
  the answer never comes).
- ``drop_after_bytes``, ``drop_after_percent``: in the middle of the answer's body.
- ``hang_up``: ``reset`` (default of ``drop``) or ``close`` (default within a body).

Another answer:

- ``status`` with ``code`` and ``message`` (Magic Hour's own form, both optional), or ``body`` (text or JSON),
  or ``html: true`` (an error page of a gateway); ``headers`` (null removes one).
- Without ``process: true`` the request is not carried out. With it, it is, and then this comes back
  instead of the API's response: a gateway that fails after the API accepted the call.
- ``merge`` (fields to set in the JSON answer), ``remove`` (fields to leave out).
- ``gzip``, ``chunked`` (no Content-Length), ``drip_bytes`` and ``drip_seconds`` (so many bytes, then a
  pause), ``shorten_to_bytes`` and ``shorten_to_percent`` (a shorter body that looks whole).

Downloads: ``expired`` (the URL is), ``version`` (another text: the file changed, and its ETag),
``range``: ``ignore`` (200 with all), ``shift`` (206 with another part), ``refuse`` (416).

A project that is being created:

- ``outcome``: ``{"status": "complete" | "error" | "canceled", "code", "message"}``.
- ``statuses``: what each following look at it shows; the last one stays.
- ``read_lag``: it is 404 for so many seconds after its create call.
- ``duration`` (seconds), ``names`` (of its outputs), ``output_bytes`` (the size of each),
  ``undeletable`` (a template: its deletion is answered 422).

**The state**: ``requests`` (by method and route, such as ``GET /v1/image-projects/{id}``, ``GET download``,
``PUT upload``), ``statuses`` (answers by status; ``dropped`` for none), ``created`` (accepted create calls by
tool), ``leaked_keys``, ``connections`` (``open``, ``opened``, ``most_open``), ``in_flight`` (``now``,
``most``), ``credits``, ``accounts`` (``id``, ``credits``, ``charged``, ``refunded``),
``projects`` (by id: ``kind``, ``tool``, ``name``, ``status``,
``enabled``, ``credits_charged``, ``error``, ``body``, ``outputs``, ``gets``, ``deletes``, ``downloads``,
``downloaded_bytes``), ``uploads`` (by ``file_path``: ``type``, ``extension``, ``puts``, and once uploaded
``size``, ``sha256``, ``content_type``), ``faults`` (each ``rule`` with ``seen``, ``used``, ``used_up``) and
``webhooks`` (each attempt: ``at``, ``type``, ``project_id``, ``attempt``, ``duplicate``, ``status``,
``error``).
"""

from airflow_provider_magichour.simulator.server import Simulator
from airflow_provider_magichour.simulator.settings import Settings

__all__ = ["Settings", "Simulator"]
