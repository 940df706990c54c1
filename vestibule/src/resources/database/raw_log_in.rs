//! The log-in with a name or a password that the driver refuses.
//!
//! The driver prepares both with SASLprep (RFC 4013), and gives up if that does not know a character. PostgreSQL and libpq
//! take the bytes as they are then (`pg_saslprep` in saslprep.c). So does this: it logs in, and passes the session on to the
//! driver, which takes it for that of a server that asks for no password. With more than 100,000 iterations of SCRAM
//! (`scram_iterations`), postgres-protocol refuses the server.
//!
//! ```text
//! driver ── inlet ── relay ── TCP with or without TLS, or a Unix socket ── PostgreSQL
//! ```

use super::{addresses, error::HAS_NO_TLS, inlet};
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    },
    message::{
        backend::{AUTHENTICATION_TAG, ERROR_RESPONSE_TAG, Message},
        frontend,
    },
};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use sqlx_core::{
    bytes::BytesMut,
    net::{
        Socket, SocketIntoBox,
        tls::{self, CertificateInput, TlsConfig},
    },
};
use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::UnixStream,
    task::spawn_blocking,
};

/// The largest message of a log-in, in bytes. libpq takes 2,000 for a request and 30,000 for an error.
const MAX_MESSAGE: usize = 30_000;

/// Logs in with the bytes of `password` as they are. `authorities` is the file `database.tls_root_cert`.
pub(super) async fn log_in(
    options: &PgConnectOptions,
    authorities: Option<Vec<u8>>,
    password: &SecretString,
    first_address: usize,
) -> Result<PgConnection, sqlx::Error> {
    let of_driver = options.clone().ssl_mode(PgSslMode::Disable);
    inlet::connect(of_driver, async |driver| {
        let mut server = ServerStream { socket: dial(options, authorities, first_address).await?, has_unsent: false };
        let is_in = authenticate(driver, &mut server, options.get_username(), password).await?;
        Ok(is_in.then_some(server))
    })
    .await
}

/// Connects to the server, with the driver's own TLS.
async fn dial(
    options: &PgConnectOptions,
    authorities: Option<Vec<u8>>,
    first_address: usize,
) -> Result<Box<dyn Socket>, sqlx::Error> {
    let (host, port, mode) = (options.get_host(), options.get_port(), options.get_ssl_mode());
    if host.starts_with('/') {
        return Ok(Box::new(UnixStream::connect(format!("{host}/.s.PGSQL.{port}")).await?));
    }
    let mut stream = addresses::connect(host, port, first_address).await?;
    // As the driver, which has no `allow`.
    if matches!(mode, PgSslMode::Disable | PgSslMode::Allow) {
        return Ok(Box::new(stream));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    match (stream.read_u8().await?, mode) {
        (b'S', _) => (),
        (b'N', PgSslMode::Prefer) => return Ok(Box::new(stream)),
        (b'N', _) => return Err(sqlx::Error::Tls(HAS_NO_TLS.into())),
        _ => return Err(unexpected("an answer to the request for TLS")),
    }
    let authorities = authorities.map(CertificateInput::Inline);
    let config = TlsConfig {
        accept_invalid_certs: !matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull),
        accept_invalid_hostnames: !matches!(mode, PgSslMode::VerifyFull),
        hostname: host,
        root_cert_path: authorities.as_ref(),
        client_cert_path: None,
        client_key_path: None,
    };
    tls::handshake(stream, config, SocketIntoBox).await
}

/// Passes the driver's startup message on, and answers what the server asks for. Returns `false` if the server refuses the
/// log-in: the driver has its error then.
async fn authenticate(
    driver: &mut UnixStream,
    server: &mut ServerStream,
    username: &str,
    password: &SecretString,
) -> Result<bool, sqlx::Error> {
    server.send(&read_startup(driver).await?).await?;
    let password = password.expose_secret().as_bytes();
    // `None` as long as the server does not ask for SCRAM, and once it has proven that it knows the password too.
    let mut scram = None;
    loop {
        let message = server.read_message().await?;
        if message[0] != AUTHENTICATION_TAG {
            driver.write_all(&message).await?;
            if message[0] == ERROR_RESPONSE_TAG {
                return Ok(false);
            }
            continue;
        }
        let mut answer = BytesMut::new();
        match (Message::parse(&mut message.clone())?, scram.take()) {
            (Some(Message::AuthenticationOk), None) => {
                driver.write_all(&message).await?;
                return Ok(true);
            }
            (Some(Message::AuthenticationCleartextPassword), None) => {
                frontend::password_message(password, &mut answer)?;
            }
            (Some(Message::AuthenticationMd5Password(body)), None) => {
                let hash = md5_hash(username.as_bytes(), password, body.salt());
                frontend::password_message(hash.as_bytes(), &mut answer)?;
            }
            (Some(Message::AuthenticationSasl(_)), None) => {
                let begun = ScramSha256::new(password, ChannelBinding::unsupported());
                frontend::sasl_initial_response(SCRAM_SHA_256, begun.message(), &mut answer)?;
                scram = Some(begun);
            }
            (Some(Message::AuthenticationSaslContinue(body)), Some(begun)) => {
                let continued = continue_scram(begun, body.data().to_vec()).await?;
                frontend::sasl_response(continued.message(), &mut answer)?;
                scram = Some(continued);
            }
            (Some(Message::AuthenticationSaslFinal(body)), Some(mut continued)) => {
                continued.finish(body.data()).map_err(|_| unexpected("a proof of the server"))?;
            }
            _ => return Err(unexpected("a way to log in that is known")),
        }
        server.send(&answer).await?;
    }
}

/// Computes the answer to the server's challenge. It takes milliseconds, so other tasks go on meanwhile.
async fn continue_scram(mut scram: ScramSha256, challenge: Vec<u8>) -> Result<ScramSha256, sqlx::Error> {
    let computed = spawn_blocking(move || scram.update(&challenge).map(|()| scram)).await.map_err(io::Error::other)?;
    computed.map_err(|_| unexpected("a challenge of SCRAM"))
}

/// Reads the driver's startup message, which has a length and no kind.
async fn read_startup(driver: &mut UnixStream) -> Result<BytesMut, sqlx::Error> {
    let length = driver.read_u32().await?;
    read_rest(driver, BytesMut::from(&length.to_be_bytes()[..]), length).await
}

/// Reads a message whose last four bytes so far are its length, themselves included.
async fn read_rest(
    stream: &mut (impl AsyncRead + Unpin),
    mut message: BytesMut,
    length: u32,
) -> Result<BytesMut, sqlx::Error> {
    let rest = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
    let Some(rest) = rest.filter(|rest| *rest <= MAX_MESSAGE) else { return Err(unexpected("a message of a log-in")) };
    let start = message.len();
    message.resize(start + rest, 0);
    stream.read_exact(&mut message[start..]).await?;
    Ok(message)
}

fn unexpected(expected: &str) -> sqlx::Error {
    sqlx::Error::Protocol(format!("expected {expected}"))
}

/// The connection to the server, with TLS or without.
struct ServerStream {
    socket: Box<dyn Socket>,
    /// `true` if TLS may have bytes that it has not sent. To flush without any would wait until the server sends something. Few
    /// may be left when it is `false`: to read sends them.
    has_unsent: bool,
}

impl ServerStream {
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.write_all(message).await?;
        self.flush().await
    }

    async fn read_message(&mut self) -> Result<BytesMut, sqlx::Error> {
        let kind = self.read_u8().await?;
        let length = self.read_u32().await?;
        let mut message = BytesMut::from(&[kind][..]);
        message.extend_from_slice(&length.to_be_bytes());
        read_rest(self, message, length).await
    }

    /// Waits until the socket is ready. Each time that it is, TLS has sent what it had, or read.
    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Box<dyn Socket>, &mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        ready!(poll(&mut self.socket, cx))?;
        self.has_unsent = false;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.socket.try_read(&mut buffer.initialize_unfilled()) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ready!(self.poll_ready(cx, Socket::poll_read_ready))?;
                }
                read => return Poll::Ready(read.map(|length| buffer.advance(length))),
            }
        }
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.socket.try_write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ready!(self.poll_ready(cx, Socket::poll_write_ready))?;
                }
                written => {
                    self.has_unsent = true;
                    return Poll::Ready(written);
                }
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_unsent { self.poll_ready(cx, Socket::poll_flush) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
    use std::{fs, sync::Arc};
    use tokio::net::{TcpListener, UnixListener};
    use tokio_rustls::TlsAcceptor;
    use uuid::Uuid;

    const PASSWORD: &str = "sentinel 😀";

    /// A ReadyForQuery.
    const READY: [u8; 6] = [b'Z', 0, 0, 0, 5, b'I'];

    /// The server's end of a connection.
    struct ServerEnd<S>(S);

    impl<S: AsyncRead + AsyncWrite + Unpin> ServerEnd<S> {
        async fn ask(&mut self, kind: u32, data: &[u8]) {
            let length = u32::try_from(data.len()).expect("it is short") + 8;
            let message = [&[AUTHENTICATION_TAG][..], &length.to_be_bytes(), &kind.to_be_bytes(), data].concat();
            self.0.write_all(&message).await.expect("somebody reads");
        }

        /// Returns the content of an answer.
        async fn answer(&mut self) -> Vec<u8> {
            assert_eq!(self.0.read_u8().await.expect("an answer"), b'p');
            let length = self.0.read_u32().await.expect("a length") as usize;
            let mut content = vec![0; length - 4];
            self.0.read_exact(&mut content).await.expect("the rest");
            content
        }

        async fn accept(&mut self) {
            self.ask(0, b"").await;
            self.0.write_all(&READY).await.expect("somebody reads");
            self.0.flush().await.expect("somebody reads");
            // Until the driver closes.
            let _ = self.0.read_to_end(&mut Vec::new()).await;
        }
    }

    /// Logs in at a server that does this after it has read the startup message. Returns the text of the error.
    async fn log_in_at(serve: impl AsyncFnOnce(&mut ServerEnd<UnixStream>)) -> Result<(), String> {
        let folder = std::env::temp_dir().join(Uuid::new_v4().simple().to_string());
        fs::create_dir(&folder).expect("a folder");
        let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).expect("a socket");
        let options = PgConnectOptions::new_without_pgpass().username("a,b").host(folder.to_str().expect("UTF-8"));
        let serving = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let startup = read_startup(&mut stream).await.expect("a startup message");
            assert!(startup.windows(9).any(|part| part == b"user\0a,b\0"), "the name is as it is");
            serve(&mut ServerEnd(stream)).await;
        };
        let password = SecretString::from(PASSWORD);
        // The connection is dropped as soon as it is there.
        let logging_in =
            async { log_in(&options, None, &password, 0).await.map(drop).map_err(|error| error.to_string()) };
        let (logged_in, ()) = tokio::join!(logging_in, serving);
        fs::remove_dir_all(&folder).expect("it is there");
        logged_in
    }

    #[tokio::test]
    async fn a_server_gets_the_bytes_of_the_password_in_clear_text_or_in_a_hash() {
        let in_clear_text = log_in_at(async |server: &mut ServerEnd<_>| {
            server.ask(3, b"").await;
            assert_eq!(server.answer().await, format!("{PASSWORD}\0").into_bytes());
            server.accept().await;
        });
        assert_eq!(in_clear_text.await, Ok(()));
        let in_a_hash = log_in_at(async |server: &mut ServerEnd<_>| {
            server.ask(5, b"salt").await;
            let hash = md5_hash(b"a,b", PASSWORD.as_bytes(), *b"salt");
            assert_eq!(server.answer().await, format!("{hash}\0").into_bytes());
            server.accept().await;
        });
        assert_eq!(in_a_hash.await, Ok(()));
    }

    #[tokio::test]
    async fn a_server_that_does_not_know_the_password_is_refused() {
        let challenged = async |server: &mut ServerEnd<_>| {
            server.ask(10, b"SCRAM-SHA-256\0\0").await;
            let first = String::from_utf8(server.answer().await).expect("SCRAM is text");
            let (_, nonce) = first.split_once(",r=").expect("a nonce");
            server.ask(11, format!("r={nonce}server,s=c2FsdA==,i=4096").as_bytes()).await;
            server.answer().await;
        };
        let false_proof = log_in_at(async |server: &mut ServerEnd<_>| {
            challenged(server).await;
            server.ask(12, b"v=cHJvb2Y=").await;
        });
        assert!(false_proof.await.is_err_and(|text| text.contains("expected a proof of the server")));
        let no_proof = log_in_at(async |server: &mut ServerEnd<_>| {
            challenged(server).await;
            server.accept().await;
        });
        assert!(no_proof.await.is_err_and(|text| text.contains("expected a way to log in")));
    }

    #[tokio::test]
    async fn messages_that_do_not_belong_to_a_log_in_are_refused() {
        // GSSAPI, and a message of 2 GB.
        let unknown = log_in_at(async |server: &mut ServerEnd<_>| server.ask(7, b"").await);
        assert!(unknown.await.is_err_and(|text| text.contains("expected a way to log in")));
        let long = log_in_at(async |server: &mut ServerEnd<_>| {
            server.0.write_all(&[AUTHENTICATION_TAG, 0x7f, 0xff, 0xff, 0xff]).await.expect("somebody reads");
        });
        assert!(long.await.is_err_and(|text| text.contains("expected a message of a log-in")));
    }

    #[tokio::test]
    async fn the_connection_to_a_silent_server_ends_with_that_of_the_driver() {
        let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = PgConnectOptions::new_without_pgpass().username("a").host("127.0.0.1");
        let options = options.port(listener.local_addr().unwrap().port()).ssl_mode(PgSslMode::Require);
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 8]).await.unwrap();
            stream.write_all(b"S").await.unwrap();
            let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
            let length = stream.read_u32().await.unwrap();
            read_rest(&mut stream, BytesMut::new(), length).await.unwrap();
            ServerEnd(stream).accept().await;
        };
        let logging_in = async { drop(log_in(&options, None, &SecretString::from(PASSWORD), 0).await.unwrap()) };
        tokio::join!(logging_in, serving);
    }
}
