#!/bin/sh
# Stands in for cargo: the workspace's service is $FAKE_SERVICE, and $FAKE_METADATA what its package says of itself.
case "$1" in
metadata)
    echo "{\"packages\": [{\"name\": \"fake\", \"default_run\": null, \"manifest_path\": \"$PWD/Cargo.toml\",
        \"metadata\": ${FAKE_METADATA:-null}}]}"
    ;;
build) echo "{\"target\": {\"name\": \"fake\"}, \"executable\": \"$FAKE_SERVICE\"}" ;;
esac
