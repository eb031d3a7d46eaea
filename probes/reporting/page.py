"""The report as one web page that needs nothing else: no network, and for reading no script."""

from collections.abc import Sequence
from dataclasses import replace

from pretrain.tools.pages import render_page
from probes.reporting import lookup, phrases, tables
from probes.reporting.charts import NOTES, Chart
from probes.reporting.summary import subtitle, summarise
from probes.reporting.svg import share
from probes.results import Report


def render(report: Report, charts: Sequence[Chart]) -> str:
    """The whole page."""
    drawings, chart_rules = share({chart.name: chart.svg for chart in charts})
    poolings = lookup.poolings(report)
    return render_page(
        __package__,
        "report.html.j2",
        report=report,
        charts=[replace(chart, svg=svg) for chart, svg in zip(charts, drawings, strict=True)],
        chart_rules=chart_rules,
        notes=NOTES,
        said=summarise(report),
        subtitle=subtitle(report),
        numbers={facts.name: number for number, facts in enumerate(report.sets)},
        poolings=poolings,
        set_choices=[(str(number), facts.title) for number, facts in enumerate(report.sets)],
        pooling_choices=[(one, phrases.pooling_title(one)) for one in poolings],
        bars=_bars(report),
        lookup=lookup,
        phrases=phrases,
        tables=tables,
    )


def _bars(report: Report) -> list[dict[str, float]]:
    """The intervals of the comparisons on one axis from 0 to 100 %, with no difference in its middle."""
    ends = [abs(end) for one in report.comparisons for end in (one.difference.low, one.difference.high)]
    reach = max([*ends, 1e-9])

    def at(value: float) -> float:
        return 50 + 50 * value / reach

    return [
        {
            "low": at(one.difference.low),
            "width": at(one.difference.high) - at(one.difference.low),
            "middle": at(one.difference.value),
            "different": one.different,
        }
        for one in report.comparisons
    ]
