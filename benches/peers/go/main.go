// Command peer is a service that the example is compared with: the same list of notes, in Go.
//
// It fetches every credential before it listens. SIGHUP, a poll and a login that PostgreSQL rejects fetch them again. A
// new login goes into a cell that BeforeConnect reads, and the pool is reset, so that each request after it has a
// connection with the new login. Unlike the example, it does not prove a new login before it uses it.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
)

const (
	refreshEvery = 5 * time.Minute
	// Rejected logins fetch the credentials no more often than this. Each request may have one.
	rejectedEvery = time.Second
)

func main() {
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stdout, nil)))
	if err := run(); err != nil {
		slog.Error("the service ends", "error", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hups := make(chan os.Signal, 1)
	signal.Notify(hups, syscall.SIGHUP)

	aws, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return fmt.Errorf("configure the AWS SDK: %w", err)
	}
	withTLS := os.Getenv("TLS") == "true"
	store := &credentialStore{
		client:  secretsmanager.NewFromConfig(aws),
		prefix:  os.Getenv("SECRETS_PREFIX"),
		withTLS: withTLS,
	}
	startCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := store.refresh(startCtx); err != nil {
		return fmt.Errorf("fetch the credentials: %w", err)
	}
	pool, err := openDatabase(startCtx, store)
	if err != nil {
		return err
	}
	defer pool.Close()

	rejected := make(chan struct{}, 1)
	server := &http.Server{
		Handler:           (&notes{pool: pool, store: store, rejected: rejected}).routes(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       75 * time.Second,
	}
	listener, err := net.Listen("tcp", os.Getenv("LISTEN"))
	if err != nil {
		return err
	}
	if withTLS {
		listener = tls.NewListener(listener, store.tlsConfig())
	}

	go func() {
		ticker := time.NewTicker(refreshEvery)
		defer ticker.Stop()
		var reloaded time.Time
		for {
			select {
			case <-ctx.Done():
				return
			case <-hups:
			case <-ticker.C:
			case <-rejected:
				if time.Since(reloaded) < rejectedEvery {
					continue
				}
			}
			reloaded = time.Now()
			reload(ctx, store, pool)
		}
	}()

	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	slog.Info("listening", "address", listener.Addr().String())
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	drainCtx, cancelDrain := context.WithTimeout(context.Background(), 25*time.Second)
	defer cancelDrain()
	if err := server.Shutdown(drainCtx); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// reload fetches the credentials again. After a failure the service goes on with those that it has.
func reload(ctx context.Context, store *credentialStore, pool interface{ Reset() }) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	loginChanged, err := store.refresh(ctx)
	if err != nil {
		slog.Error("could not refresh the credentials; keeping those held", "error", err)
		return
	}
	if loginChanged {
		pool.Reset()
		slog.Info("took up a new login")
	}
}
