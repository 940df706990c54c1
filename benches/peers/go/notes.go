package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	requestTimeout = 10 * time.Second
	// The code with which PostgreSQL rejects a login.
	invalidPassword = "28P01"
	listQuery       = "SELECT id, body, created_at, created_by FROM notes WHERE id < $1 ORDER BY id DESC LIMIT $2"
)

type note struct {
	ID        uuid.UUID `json:"id"`
	Body      string    `json:"body"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy *string   `json:"created_by,omitempty"`
}

type page struct {
	Notes      []note  `json:"notes"`
	NextCursor *string `json:"next_cursor"`
}

type notes struct {
	pool     *pgxpool.Pool
	store    *credentialStore
	rejected chan<- struct{}
}

func (n *notes) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/notes", n.list)
	return mux
}

func (n *notes) list(w http.ResponseWriter, r *http.Request) {
	limit, before := 20, uuid.Max
	if r.URL.RawQuery != "" {
		query := r.URL.Query()
		var err error
		if text := query.Get("limit"); text != "" {
			if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > 100 {
				problem(w, http.StatusBadRequest, "`limit` must be from 1 to 100")
				return
			}
		}
		if text := query.Get("cursor"); text != "" {
			if before, err = openCursor(n.store.get(), text); err != nil {
				problem(w, http.StatusBadRequest, err.Error())
				return
			}
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	found, err := n.find(ctx, before, limit+1)
	if err != nil {
		slog.Error("the database failed", "error", err)
		var answer *pgconn.PgError
		if errors.As(err, &answer) && answer.Code == invalidPassword {
			select {
			case n.rejected <- struct{}{}:
			default: // A reload is asked for already.
			}
		}
		problem(w, http.StatusServiceUnavailable, "the database is not available; try again soon")
		return
	}
	answer := page{Notes: found}
	if len(found) > limit {
		answer.Notes = found[:limit]
		cursor := sealCursor(n.store.get(), found[limit-1].ID)
		answer.NextCursor = &cursor
	}
	writeJSON(w, http.StatusOK, "application/json", answer)
}

// find returns up to `limit` notes that are older than `before`, the newest first.
func (n *notes) find(ctx context.Context, before uuid.UUID, limit int) ([]note, error) {
	// AppendRows returns the error of Query as well.
	rows, _ := n.pool.Query(ctx, listQuery, before, limit)
	return pgx.AppendRows(make([]note, 0, limit), rows, func(row pgx.CollectableRow) (note, error) {
		var read note
		err := row.Scan(&read.ID, &read.Body, &read.CreatedAt, &read.CreatedBy)
		read.CreatedAt = read.CreatedAt.UTC()
		return read, err
	})
}

func problem(w http.ResponseWriter, status int, detail string) {
	writeJSON(w, status, "application/problem+json", map[string]any{
		"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail,
	})
}

// writeJSON sends the length too. Otherwise net/http would send a large answer in chunks.
func writeJSON(w http.ResponseWriter, status int, contentType string, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
