package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"
)

const cursorLifetime = 24 * time.Hour

var errCursor = errors.New("`cursor` is not one of ours, or has expired: start again without it")

// sealCursor signs an id and the time at which it expires: `<key id>.<expiry and id>.<signature>`.
func sealCursor(held *credentials, id uuid.UUID) string {
	payload := make([]byte, 8, 24)
	binary.BigEndian.PutUint64(payload, uint64(time.Now().Add(cursorLifetime).Unix()))
	payload = append(payload, id[:]...)
	encoding := base64.RawURLEncoding
	signature := sign(held.signing.key, payload)
	return held.signing.id + "." + encoding.EncodeToString(payload) + "." + encoding.EncodeToString(signature)
}

// openCursor verifies a cursor with the current key or the one before it.
func openCursor(held *credentials, cursor string) (uuid.UUID, error) {
	keyID, rest, _ := strings.Cut(cursor, ".")
	encodedPayload, encodedSignature, _ := strings.Cut(rest, ".")
	payload, err := base64.RawURLEncoding.DecodeString(encodedPayload)
	if err != nil || len(payload) != 24 {
		return uuid.Nil, errCursor
	}
	signature, err := base64.RawURLEncoding.DecodeString(encodedSignature)
	if err != nil {
		return uuid.Nil, errCursor
	}
	key := &held.signing
	if keyID != key.id {
		key = held.previousKey
	}
	if key == nil || keyID != key.id || !hmac.Equal(signature, sign(key.key, payload)) {
		return uuid.Nil, errCursor
	}
	if time.Now().Unix() > int64(binary.BigEndian.Uint64(payload)) {
		return uuid.Nil, errCursor
	}
	return uuid.FromBytes(payload[8:])
}

func sign(key, payload []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("cursor\x00"))
	mac.Write(payload)
	return mac.Sum(nil)
}
