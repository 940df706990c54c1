package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"golang.org/x/sync/errgroup"
)

// login is a login at the database, in the JSON that RDS writes.
type login struct {
	Username string `json:"username"`
	Password string `json:"password"`
	version  string
}

// signingKey is a key for cursors. Its id is the id of its version.
type signingKey struct {
	id  string
	key []byte
}

// credentials are all credentials of the service, of one moment. They never change.
type credentials struct {
	login       login
	signing     signingKey
	previousKey *signingKey
	webhook     string
	certificate *tls.Certificate
	clientCAs   *x509.CertPool
}

// credentialStore fetches the credentials, and has the newest ones.
type credentialStore struct {
	client  *secretsmanager.Client
	prefix  string
	withTLS bool
	current atomic.Pointer[credentials]
}

type secret struct {
	text    string
	version string
}

func (s *credentialStore) get() *credentials { return s.current.Load() }

// refresh fetches all credentials at the same time. It returns true if the login is another one than before.
func (s *credentialStore) refresh(ctx context.Context) (loginChanged bool, err error) {
	var next credentials
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		secret, err := s.fetch(ctx, "database", "AWSCURRENT")
		if err != nil {
			return err
		}
		next.login.version = secret.version
		// The error of the parser would quote the secret.
		if json.Unmarshal([]byte(secret.text), &next.login) != nil || next.login.Username == "" {
			return errors.New("the secret `database` is not the JSON of a login")
		}
		return nil
	})
	group.Go(func() error {
		secret, err := s.fetch(ctx, "signing", "AWSCURRENT")
		if err != nil {
			return err
		}
		next.signing, err = readSigningKey(secret)
		return err
	})
	group.Go(func() error {
		secret, err := s.fetch(ctx, "signing", "AWSPREVIOUS")
		var notFound *types.ResourceNotFoundException
		if errors.As(err, &notFound) {
			return nil
		}
		if err != nil {
			return err
		}
		key, err := readSigningKey(secret)
		if err != nil {
			// A key that was never good has signed nothing.
			slog.Warn("the previous signing key is of no use", "error", err)
			return nil
		}
		next.previousKey = &key
		return nil
	})
	group.Go(func() error {
		secret, err := s.fetch(ctx, "webhook", "AWSCURRENT")
		next.webhook = secret.text
		return err
	})
	if s.withTLS {
		group.Go(func() error {
			secret, err := s.fetch(ctx, "server_tls", "AWSCURRENT")
			if err != nil {
				return err
			}
			next.certificate, err = readCertificate(secret)
			return err
		})
		group.Go(func() error {
			secret, err := s.fetch(ctx, "client_ca", "AWSCURRENT")
			if err != nil {
				return err
			}
			next.clientCAs = x509.NewCertPool()
			if !next.clientCAs.AppendCertsFromPEM([]byte(secret.text)) {
				return errors.New("the secret `client_ca` has no certificate")
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return false, err
	}
	before := s.current.Swap(&next)
	return before == nil || before.login.version != next.login.version, nil
}

func (s *credentialStore) fetch(ctx context.Context, name, stage string) (secret, error) {
	output, err := s.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{
		SecretId:     aws.String(s.prefix + "/" + name),
		VersionStage: aws.String(stage),
	})
	if err != nil {
		return secret{}, fmt.Errorf("fetch the secret `%s`: %w", name, err)
	}
	return secret{text: aws.ToString(output.SecretString), version: aws.ToString(output.VersionId)}, nil
}

// tlsConfig returns a configuration that takes the certificate and the authorities of the moment for each connection.
func (s *credentialStore) tlsConfig() *tls.Config {
	return &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			current := s.get()
			return &tls.Config{
				Certificates: []tls.Certificate{*current.certificate},
				ClientCAs:    current.clientCAs,
				ClientAuth:   tls.RequireAndVerifyClientCert,
				NextProtos:   []string{"http/1.1"},
			}, nil
		},
	}
}

func readSigningKey(secret secret) (signingKey, error) {
	key, err := base64.StdEncoding.DecodeString(secret.text)
	if err != nil || len(key) < 32 {
		return signingKey{}, errors.New("the secret `signing` is not base64 of at least 32 bytes")
	}
	return signingKey{id: secret.version, key: key}, nil
}

func readCertificate(secret secret) (*tls.Certificate, error) {
	var pair struct {
		Certificate string `json:"certificate"`
		PrivateKey  string `json:"private_key"`
	}
	if json.Unmarshal([]byte(secret.text), &pair) != nil {
		return nil, errors.New("the secret `server_tls` is not the JSON of a certificate and its key")
	}
	certificate, err := tls.X509KeyPair([]byte(pair.Certificate), []byte(pair.PrivateKey))
	if err != nil {
		return nil, errors.New("the certificate and the key in `server_tls` do not fit")
	}
	return &certificate, nil
}
