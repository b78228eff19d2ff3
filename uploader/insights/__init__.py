"""Fetches the insights of conversations into a folder, one file each."""

from uploader.insights.asking import Asker
from uploader.insights.fetching import Fetcher, Report
from uploader.insights.files import folder_for_insights

__all__ = ["Asker", "Fetcher", "Report", "folder_for_insights"]
