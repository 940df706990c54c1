//! The inlet: a Unix socket in this process, for connections that the driver cannot open by itself.
//!
//! The driver connects to nothing but names, addresses and Unix sockets. So what opens the connection to the server passes
//! its bytes on.

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use std::{io, path::PathBuf, process};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy, split},
    net::{UnixListener, UnixStream},
};
use uuid::Uuid;

/// Lets the driver connect to the inlet, and calls `open` with its stream. That returns the connection to the server, or
/// `None` if the driver has an error of the server then. With TLS in the options, the driver does it through the inlet.
pub(super) async fn connect<S>(
    options: PgConnectOptions,
    open: impl AsyncFnOnce(&mut UnixStream) -> Result<Option<S>, sqlx::Error>,
) -> Result<PgConnection, sqlx::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let inlet = Inlet::bind(options.get_port())?;
    let options = options.socket(&inlet.folder);
    let opening = async {
        let mut driver = inlet.accept().await?;
        if let Some(server) = open(&mut driver).await? {
            tokio::spawn(relay(driver, server));
        }
        Ok(())
    };
    let (connection, ()) = tokio::try_join!(PgConnection::connect_with(&options), opening)?;
    Ok(connection)
}

/// The Unix socket that the driver connects to.
struct Inlet {
    listener: UnixListener,
    /// The folder that the driver looks for the socket in. On Linux it is an abstract name, which needs no folder that can be
    /// written to (unix(7)).
    folder: PathBuf,
}

impl Inlet {
    /// Binds the socket that the driver will connect to for a server with this port.
    fn bind(port: u16) -> io::Result<Self> {
        let id = Uuid::new_v4().simple().to_string();
        #[cfg(target_os = "linux")]
        let folder = PathBuf::from(format!("\0vestibule-{id}"));
        #[cfg(not(target_os = "linux"))]
        let folder = std::env::temp_dir().join(&id[..16]);
        #[cfg(not(target_os = "linux"))]
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&folder)?;
        let listener = UnixListener::bind(folder.join(format!(".s.PGSQL.{port}")))?;
        Ok(Self { listener, folder })
    }

    /// Returns the connection of the driver. The kernel says which process is at the other end: no other one gets a session
    /// for which it has not logged in.
    async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
            if pid.is_some_and(|pid| pid.cast_unsigned() == process::id()) {
                return Ok(stream);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Drop for Inlet {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Passes bytes on until one side closes.
async fn relay(mut driver: UnixStream, server: impl AsyncRead + AsyncWrite) {
    let (mut from_server, mut to_server) = split(server);
    let (mut from_driver, mut to_driver) = driver.split();
    // In this order: to write to the server may read from it, and then there is something to pass on to the driver.
    tokio::select! {
        biased;
        _ = copy(&mut from_driver, &mut to_server) => (),
        _ = copy(&mut from_server, &mut to_driver) => (),
    }
}
