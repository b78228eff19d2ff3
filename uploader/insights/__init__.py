"""Fetches the insights of conversations into a folder, one file each."""

from uploader.insights.fetching import Fetcher, Report
from uploader.insights.files import folder_for_insights
from uploader.insights.retrying import RetryingReader

__all__ = ["Fetcher", "Report", "RetryingReader", "folder_for_insights"]
