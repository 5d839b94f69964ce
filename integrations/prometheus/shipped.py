"""What is shipped beside the code: a dashboard for Grafana, and alert rules for Prometheus."""

from __future__ import annotations

import os

FOLDER = os.path.dirname(os.path.abspath(__file__))


def dashboard_path() -> str:
    """The path of the dashboard, JSON for Grafana 9 or newer (Dashboards → New → Import)."""
    return os.path.join(FOLDER, "dashboard.json")


def rules_path() -> str:
    """The path of the alert rules, for ``rule_files`` of a Prometheus server. What to do at each alert:
    docs/alerts.md."""
    return os.path.join(FOLDER, "alerts.yml")
