"""A row that sets every parameter of put-audio.md, with everything in it that an encoding can lose."""

from typing import Any, Final

TRICKY: Final = "&=+%#?/ \"'é漢字😀; %20 \\ \t\r\ntwo\nlines"

EVERY_PARAMETER: Final[dict[str, Any]] = {
    "name": f"Meeting {TRICKY}",
    "webhookUrl": "https://example.com/jobs/callback?a=1&b=é+%20'漢字'#😀",
    "customVocabulary": ["Platform", TRICKY, "a,b", "[]", "null"],
    "confidenceThreshold": 0.65,
    "detectPhrases": False,
    "entities": [
        {"customType": f"type {TRICKY}", "text": f"text {TRICKY}"},
        {"customType": "identify_colour", "text": "blue"},
    ],
    "detectEntities": True,
    "enableSeparateRecognitionPerChannel": True,
    "channelMetadata": [
        {"channel": 1, "speaker": {"name": TRICKY, "email": "é+漢字&a=b@example.com"}},
        {"channel": 2, "speaker": {"name": "Arya Stark"}},
    ],
    "languageCode": "es-ES",
    "mode": "phone",
    "trackers": [{"name": TRICKY, "vocabulary": [TRICKY, "new role"]}],
    "enableAllTrackers": True,
    "enableSummary": False,
    "enableSpeakerDiarization": True,
    "diarizationSpeakerCount": 2,
}
