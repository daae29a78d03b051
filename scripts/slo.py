#!/usr/bin/env python3
"""Prints deploy/prometheus/slo.rules.yml: the same expression for each promise and each window, and one alert for each rate.

    scripts/slo.py > deploy/prometheus/slo.rules.yml
"""

WINDOWS = ["5m", "30m", "1h", "2h", "6h", "1d", "3d"]

ANSWERS = 'http_server_request_duration_seconds_count{http_route=~"/api/.*"'
POSTS = 'http_route="/api/orders",http_response_status_code="201"'

# Name: the share that may fail, what is promised, what has failed and what was asked for, in a window.
PROMISES = {
    "answers": (
        "0.001",
        "Answers of the API that are not the server's fault.",
        lambda window: f'sum(rate({ANSWERS},http_response_status_code=~"5.."}}[{window}]))',
        lambda window: f"sum(rate({ANSWERS}}}[{window}]))",
    ),
    "post": (
        "0.01",
        "Orders that are accepted within 100 ms.",
        lambda window: slower_than("http_server_request_duration_seconds", POSTS, "0.1", window),
        lambda window: f"sum(rate(http_server_request_duration_seconds_count{{{POSTS}}}[{window}]))",
    ),
    "paid-1s": (
        "0.01",
        "Payments that are decided within 1 s.",
        lambda window: slower_than("holdfast_order_payment_seconds", "", "1", window),
        lambda window: f"sum(rate(holdfast_order_payment_seconds_count[{window}]))",
    ),
    "paid-60s": (
        "0.001",
        "Payments that are decided within 60 s.",
        lambda window: slower_than("holdfast_order_payment_seconds", "", "60", window),
        lambda window: f"sum(rate(holdfast_order_payment_seconds_count[{window}]))",
    ),
}

# Name, long window, short window, how many times of what is allowed, severity, requests a second below which nothing is said, and when
# nothing would be left.
ALERTS = [
    ("BudgetBurnsFast", "1h", "5m", "14.4", "page", "0.02", "in two days"),
    ("BudgetBurns", "6h", "30m", "6", "page", "0.01", "in five days"),
    ("BudgetBurnsSlowly", "1d", "2h", "3", "ticket", "0.01", "in ten days"),
    ("BudgetIsUsedUp", "3d", "6h", "1", "ticket", "0.01", "before the 30 days are over"),
]


def slower_than(histogram, labels, seconds, window):
    """What a histogram counts above one of its buckets."""
    all_ = f"{histogram}_count{{{labels}}}" if labels else f"{histogram}_count"
    fast = ",".join(filter(None, [labels, f'le="{seconds}"']))
    return f"sum(rate({all_}[{window}])) - sum(rate({histogram}_bucket{{{fast}}}[{window}]))"


def main():
    print(
        """# What users are promised, over 30 days: slo_budget is the share that may fail, slo_errors:ratio_rate* the share that does.
# The alerts ask how fast the budget burns, over a long window, so that a short failure pages nobody, and over a short one, so that they
# end soon after the failure does. With few requests a single one would be a large share: below slo_requests nothing is said.
#
# Written by scripts/slo.py.
groups:
  - name: holdfast-slo-budgets
    rules:"""
    )
    for name, (budget, promise, _, _) in PROMISES.items():
        print(f"      # {promise}")
        print(f"      - record: slo_budget\n        expr: vector({budget})\n        labels: {{slo: {name}}}")
    long_windows = [alert[1] for alert in ALERTS]
    for window in WINDOWS:
        print(f"  - name: holdfast-slo-{window}\n    rules:")
        for name, (_, _, failed, asked) in PROMISES.items():
            print(f"      - record: slo_errors:ratio_rate{window}")
            print(f"        expr: ({failed(window)}) / ({asked(window)} > 0)\n        labels: {{slo: {name}}}")
            if window in long_windows:
                print(f"      - record: slo_requests:rate{window}")
                print(f"        expr: {asked(window)}\n        labels: {{slo: {name}}}")
    print("  - name: holdfast-slo-alerts\n    rules:")
    for name, long, short, times, severity, requests, end in ALERTS:
        burns = [f"slo_errors:ratio_rate{window} > on (slo) {times} * slo_budget" for window in (long, short)]
        expression = " and on (slo) ".join([*burns, f"slo_requests:rate{long} > {requests}"])
        print(f"      - alert: {name}\n        expr: {expression}\n        labels: {{severity: {severity}}}")
        print("        annotations:")
        print(
            '          summary: "{{ $value | humanizePercentage }} of what is promised as {{ $labels.slo }} fails: '
            f'the budget of 30 days is used up {end}"'
        )
        print(f"          runbook: docs/alerts.md#{name.lower()}")


if __name__ == "__main__":
    main()
