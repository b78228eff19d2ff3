"""The table of all parameters: name, type, rule, encoding, section, meaning and remedy."""

from collections.abc import Mapping

from uploader.parameters.parameter import Encoding, Parameter

# the media types that the Content-Type header may name (put-audio.md, Request Headers)
CONTENT_TYPES = ("audio/wav", "audio/wave", "audio/mpeg", "audio/mp3")

_QUERY = "Query Parameters"


def _switch(name: str, meaning: str, section: str = _QUERY) -> Parameter:
    return Parameter(
        name=name,
        documented="Boolean",
        shape="Switch",
        rule="true or false",
        encoding=Encoding.WORD,
        section=section,
        meaning=meaning,
        remedy="write true or false",
    )


_ENTRIES = (
    Parameter(
        name="name",
        documented="String",
        shape="Text",
        rule="not empty",
        encoding=Encoding.TEXT,
        section=_QUERY,
        meaning="the meeting's name; the service takes the conversationId where it is not set",
        remedy="write the meeting's name as text, or leave it out",
    ),
    Parameter(
        name="webhookUrl",
        documented="String",
        shape="Url",
        rule="an http or https URL",
        encoding=Encoding.TEXT,
        section="Using Webhook",
        meaning="where the service posts every change of the job's status",
        remedy="write a URL that begins with https:// or http://",
    ),
    Parameter(
        name="customVocabulary",
        documented="String[]",
        shape="Words",
        rule="a list of texts",
        encoding=Encoding.JSON,
        section=_QUERY,
        meaning="words and phrases that are hints to the speech recognition",
        remedy='write a list of texts: ["Platform", "Targets"]',
    ),
    Parameter(
        name="confidenceThreshold",
        documented="Double",
        shape="Confidence",
        rule="0.5 to 1.0",
        encoding=Encoding.NUMBER,
        section=_QUERY,
        meaning="the least confidence of an insight; 0.5 where it is not set",
        remedy="write a number from 0.5 to 1.0",
    ),
    _switch("detectPhrases", "show the actionable phrases of each sentence"),
    Parameter(
        name="entities",
        documented="Object[]",
        shape="Entities",
        rule="a list of objects with customType and text",
        encoding=Encoding.JSON,
        section="Custom Entity",
        meaning="custom entities to detect; needs detectEntities",
        remedy='write a list of objects: [{"customType": "identify_colour", "text": "blue"}]',
    ),
    _switch("detectEntities", "detect entities; without it none are returned"),
    _switch(
        "enableSeparateRecognitionPerChannel",
        "recognise each channel apart; billed by duration times channels",
        "Speaker Separation",
    ),
    Parameter(
        name="channelMetadata",
        documented="Object[]",
        shape="Channels",
        rule="a list of objects with channel and speaker",
        encoding=Encoding.JSON,
        section="Channel Metadata",
        meaning="who speaks on which channel; needs enableSeparateRecognitionPerChannel",
        remedy='write a list of objects, each channel once: [{"channel": 1, "speaker": {"name": "…", "email": "…"}}]',
    ),
    Parameter(
        name="languageCode",
        documented="String",
        shape="LanguageCode",
        rule="a language code",
        encoding=Encoding.TEXT,
        section=_QUERY,
        meaning="the language of the recording",
        remedy="write a language code such as en-US",
    ),
    Parameter(
        name="mode",
        documented="String",
        shape="Mode",
        rule="phone or default",
        encoding=Encoding.TEXT,
        section=_QUERY,
        meaning="phone for telephone calls (8 kHz), default for meetings (16 kHz and more)",
        remedy="write phone or default",
    ),
    Parameter(
        name="trackers",
        documented="List",
        shape="Trackers",
        rule="a list of objects with name and vocabulary",
        encoding=Encoding.JSON,
        section=_QUERY,
        meaning="trackers: names, each with the words and phrases to look for",
        remedy='write a list of objects: [{"name": "Budget", "vocabulary": ["price", "too dear"]}]',
    ),
    _switch("enableAllTrackers", "detect all trackers that are kept for the account"),
    _switch("enableSummary", "make a summary; only at the base URL https://api.symbl.ai"),
    _switch(
        "enableSpeakerDiarization",
        "tell the speakers of one channel apart; English and Spanish only",
        "Speaker Separation",
    ),
    Parameter(
        name="diarizationSpeakerCount",
        documented="String",
        shape="SpeakerCount",
        rule="1 or more",
        encoding=Encoding.NUMBER,
        section="Speaker Separation",
        meaning="the number of speakers; needs enableSpeakerDiarization",
        remedy="write the number of speakers: 1 or more",
    ),
)

# the parameters that a column or the config's [parameters] may set, in the documentation's order
TABLE: Mapping[str, Parameter] = {parameter.name: parameter for parameter in _ENTRIES}

# parameters that work only where another is true (put-audio.md, Channel Metadata, Speaker Separation)
NEEDS: Mapping[str, str] = {
    "channelMetadata": "enableSeparateRecognitionPerChannel",
    "diarizationSpeakerCount": "enableSpeakerDiarization",
}
