"""Requests counted by route and status."""

from __future__ import annotations

import re
import time

from flask import Flask, Response, g, request

from roiservice.metrics import OTHER, Metrics

# <id:image_id> and <any(roi, shape):kind> as the API's description writes them: {image_id}, {kind}.
_PARAMETER = re.compile(r"<(?:any\([^)]*\):|\w+:)?(\w+)>")


def count_requests(app: Flask, metrics: Metrics) -> None:
    """Count every answer of `app`; to be called when all routes are there, before other hooks are."""
    templates = {rule.rule: _PARAMETER.sub(r"{\1}", rule.rule) for rule in app.url_map.iter_rules()}
    metrics.declare_routes(templates.values())

    def begin() -> None:
        g.began = time.perf_counter()

    def count(response: Response) -> Response:
        rule = request.url_rule
        route = OTHER if rule is None else templates[rule.rule]
        metrics.request(route, response.status_code, time.perf_counter() - g.began)
        return response

    app.before_request(begin)
    app.after_request(count)  # of such hooks Flask calls the first to be registered last
