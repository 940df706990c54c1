#!/bin/sh
# A fake cargo. The service of the workspace is $FAKE_SERVICE, and the metadata of its package is $FAKE_METADATA.
case "$1" in
metadata)
    echo "{\"packages\": [{\"name\": \"fake\", \"default_run\": null, \"manifest_path\": \"$PWD/Cargo.toml\",
        \"metadata\": ${FAKE_METADATA:-null}}]}"
    ;;
build) echo "{\"target\": {\"name\": \"fake\"}, \"executable\": \"$FAKE_SERVICE\"}" ;;
esac
