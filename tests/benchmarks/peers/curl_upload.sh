#!/bin/sh
# curl --parallel that streams each file (--data-binary would hold it in memory). Arguments: the manifest (CSV) and X.
set -eu
tail -n +2 "$1" | tr -d '\r' | while IFS=, read -r conversation path; do
  cat <<ENTRY
url = "$UPLOADER_BASE_URL/v1/process/audio/$conversation"
upload-file = "$path"
header = "Authorization: Bearer $UPLOADER_ACCESS_TOKEN"
header = "Content-Type: audio/wav"
output = "/dev/null"
fail
next
ENTRY
done | sed '$d' > curl.config
exec curl --silent --show-error --parallel --parallel-immediate --parallel-max "$2" --config curl.config
