#!/bin/sh
# What people type: curl --parallel over a list, --retry for the 429s. Arguments: the manifest (CSV) and X.
set -eu
tail -n +2 "$1" | tr -d '\r' | while IFS=, read -r conversation path; do
  cat <<ENTRY
url = "$UPLOADER_BASE_URL/v1/process/audio/$conversation"
request = "PUT"
data-binary = "@$path"
header = "Authorization: Bearer $ACCESS_TOKEN"
header = "Content-Type: audio/wav"
output = "/dev/null"
fail
retry = 1000
next
ENTRY
done | sed '$d' > curl.config
exec curl --silent --show-error --parallel --parallel-max "$2" --config curl.config
