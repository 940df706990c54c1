//! A TCP proxy between the service and its database, or another server, whose connections fail as a test wants it.

use devstack::{Launch, Tenant};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::sleep,
};

/// The treatment of new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewConnections {
    /// They reach the database.
    Forwarded,
    /// They reach the database this much later.
    Delayed(Duration),
    /// They are accepted, and nothing answers.
    Swallowed,
    /// They are reset at once.
    Reset,
}

/// A fault of all connections that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenFault {
    /// They stay open, and every byte is lost, in both directions.
    Swallow,
    /// They are reset.
    Reset,
    /// They are closed.
    Close,
}

/// A TCP proxy between the service and a server. It ends when this is dropped.
pub(crate) struct TcpProxy {
    port: u16,
    controls: Arc<ProxyControls>,
    _accepting: JoinSet<()>,
}

struct ProxyControls {
    server: (String, u16),
    new_connections: watch::Sender<NewConnections>,
    /// The last fault of open connections. A connection that is opened later does not see it.
    fault: watch::Sender<OpenFault>,
    /// The time that each piece of data takes longer, in both directions.
    latency: watch::Sender<Duration>,
    /// The number of pieces of data that clients have sent, those that were lost included.
    sent: AtomicUsize,
}

impl TcpProxy {
    /// Starts in front of the tenant's database.
    pub(crate) async fn before(tenant: &Tenant) -> Self {
        let database = tenant.database();
        Self::to(&database.host, database.port).await
    }

    /// Starts in front of any server.
    pub(crate) async fn to(host: &str, port_of_server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let controls = Arc::new(ProxyControls {
            server: (host.to_owned(), port_of_server),
            new_connections: watch::Sender::new(NewConnections::Forwarded),
            fault: watch::Sender::new(OpenFault::Close),
            latency: watch::Sender::new(Duration::ZERO),
            sent: AtomicUsize::new(0),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(controls.clone().accept(listener));
        Self { port, controls, _accepting: accepting }
    }

    /// Sends the service through this proxy to its database.
    pub(crate) fn launch(&self, launch: Launch) -> Launch {
        launch.env("APP_DATABASE__PORT", self.port.to_string())
    }

    /// Returns its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Treats connections like this that are opened from now on.
    pub(crate) fn set_new_connections(&self, treatment: NewConnections) {
        self.controls.new_connections.send_replace(treatment);
    }

    /// Has all connections fail that are open now.
    pub(crate) fn fail_open_connections(&self, fault: OpenFault) {
        self.controls.fault.send_replace(fault);
    }

    /// Delays all data from now on by this much, in each direction.
    pub(crate) fn set_latency(&self, latency: Duration) {
        self.controls.latency.send_replace(latency);
    }

    /// Returns the number of pieces of data that came from the service, those that were lost included.
    pub(crate) fn sent(&self) -> usize {
        self.controls.sent.load(Ordering::Relaxed)
    }
}

impl ProxyControls {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let (client, _) = listener.accept().await.expect("a connection");
            client.set_nodelay(true).expect("it is a TCP connection");
            connections.spawn(self.clone().serve(client));
            while connections.try_join_next().is_some() {}
        }
    }

    async fn serve(self: Arc<Self>, client: TcpStream) {
        let mut faults = self.fault.subscribe();
        let treatment = *self.new_connections.borrow();
        let (from_client, to_client) = client.into_split();
        let server = match treatment {
            NewConnections::Forwarded => self.connect().await,
            NewConnections::Delayed(delay) => {
                sleep(delay).await;
                self.connect().await
            }
            NewConnections::Swallowed => return self.swallow(from_client).await,
            NewConnections::Reset => return reset(&to_client),
        };
        let Ok((from_server, to_server)) = server else { return reset(&to_client) };
        let (mut from_client, mut from_server) = (from_client, from_server);
        let (mut to_client, mut to_server) = (to_client, to_server);
        tokio::select! {
            _ = self.forward(&mut from_client, &mut to_server, true) => return,
            _ = self.forward(&mut from_server, &mut to_client, false) => return,
            _ = faults.changed() => (),
        }
        let fault = *faults.borrow();
        match fault {
            OpenFault::Swallow => self.swallow(from_client).await,
            OpenFault::Reset => reset(&to_client),
            OpenFault::Close => (),
        }
    }

    async fn connect(&self) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
        let server = TcpStream::connect(self.server.clone()).await?;
        server.set_nodelay(true)?;
        Ok(server.into_split())
    }

    async fn forward(&self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, is_client: bool) -> io::Result<()> {
        let mut piece = vec![0; 16 * 1024];
        loop {
            let length = from.read(&mut piece).await?;
            if length == 0 {
                return Ok(());
            }
            if is_client {
                self.sent.fetch_add(1, Ordering::Relaxed);
            }
            let latency = *self.latency.borrow();
            if !latency.is_zero() {
                sleep(latency).await;
            }
            to.write_all(&piece[..length]).await?;
        }
    }

    /// Loses everything that a client sends, until the client closes the connection.
    async fn swallow(&self, mut from_client: OwnedReadHalf) {
        let mut piece = vec![0; 16 * 1024];
        while matches!(from_client.read(&mut piece).await, Ok(1..)) {
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn reset(client: &OwnedWriteHalf) {
    // A connection that is closed with a linger of zero is reset.
    let _ = client.as_ref().set_zero_linger();
}
