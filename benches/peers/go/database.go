package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const maxConnections = 10

// openDatabase makes a pool whose connections log in as the store says at that moment, and proves the first login.
func openDatabase(ctx context.Context, store *credentialStore) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(fmt.Sprintf("host=%s port=%s dbname=%s sslmode=disable",
		os.Getenv("DATABASE_HOST"), os.Getenv("DATABASE_PORT"), os.Getenv("DATABASE_NAME")))
	if err != nil {
		return nil, fmt.Errorf("configure the database: %w", err)
	}
	config.MaxConns = maxConnections
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	config.BeforeConnect = func(_ context.Context, connection *pgx.ConnConfig) error {
		login := store.get().login
		connection.User, connection.Password = login.Username, login.Password
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("log in at the database: %w", err)
	}
	return pool, nil
}
