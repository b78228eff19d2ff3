#!/bin/sh
# What people type: xargs -P X, a curl a file, --retry for the 429s. Arguments: the manifest (CSV) and X.
set -eu
tail -n +2 "$1" | tr -d '\r' | tr ',' ' ' | xargs -P "$2" -L 1 sh -c '
  curl --silent --show-error --fail --retry 1000 --output /dev/null --request PUT --data-binary "@$1" \
    --header "Authorization: Bearer $ACCESS_TOKEN" --header "Content-Type: audio/wav" \
    "$UPLOADER_BASE_URL/v1/process/audio/$0"'
