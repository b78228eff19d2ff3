"""Forecasts from the ledger how long a run still takes."""

from uploader.ledger import Connection
from uploader.ledger.reading import jobs_seen, live_jobs
from uploader.ledger.sending import lanes_to_send
from uploader.model import Order
from uploader.policy.forecast import forecast_batch, pace_of
from uploader.settings import Settings


def seconds_left(connection: Connection, account_id: int, settings: Settings, limit: int, now: float) -> float:
    """Forecast the seconds that a run of an account still takes, by the schedule that a plan follows."""
    assumed = settings.schedule
    left = lanes_to_send(connection, account_id, live_jobs(connection, account_id), now)
    pace = pace_of(jobs_seen(connection, account_id))
    left.set_job_seconds(pace or assumed.job_seconds_per_audio_second, assumed.audio_bytes_per_second)
    return forecast_batch(left, limit, settings.puts_per_second, order=Order(assumed.order)).seconds
