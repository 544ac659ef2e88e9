//! A certificate authority of a test's own, and TLS in front of a Postgres that has none.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// How a Postgres client asks for TLS: a length of 8, and a code that is no protocol version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// A certificate authority that nobody knows but those who are given [`Authority::file`].
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    file: PathBuf,
}

impl Authority {
    /// Makes one that keeps its files in `dir`.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn make(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Of two with one name, a client would take one for the other with a bad signature.
        let name = format!("authority {:016x}", rand::random::<u64>());
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(io::Error::other)?;
        let file = dir.join("ca.pem");
        fs::write(&file, issuer.pem())?;
        Ok(Self {
            issuer,
            dir: dir.to_owned(),
            file,
        })
    }

    /// Its certificate, as a PEM file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Certificate and key for a server that is reached as `host`, as PEM files.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn issue(&self, host: &str) -> io::Result<(PathBuf, PathBuf)> {
        let params = CertificateParams::new([host.to_owned()]).map_err(io::Error::other)?;
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(io::Error::other)?;
        let (cert_file, key_file) = (
            self.dir.join(format!("{host}.pem")),
            self.dir.join(format!("{host}.key.pem")),
        );
        fs::write(&cert_file, certificate.pem())?;
        fs::write(&key_file, key.serialize_pem())?;
        Ok((cert_file, key_file))
    }
}

/// Speaks TLS as the server of a certificate and key in PEM files.
fn acceptor(pem: &(PathBuf, PathBuf)) -> io::Result<TlsAcceptor> {
    let certificates = CertificateDer::pem_file_iter(&pem.0).and_then(Iterator::collect);
    let certificates: Vec<_> = certificates.map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(&pem.1).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| {
            config
                .with_no_client_auth()
                .with_single_cert(certificates, key)
        })
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Where an HTTPS server of a test listens, on a free port of loopback. Who does not speak TLS, or
/// does not trust it, gets no further.
pub struct Listener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener {
    /// Begins to listen, with certificate and key in PEM files.
    ///
    /// # Errors
    /// When a file is no PEM, or there is no port to listen on.
    pub async fn bind(pem: &(PathBuf, PathBuf)) -> io::Result<Self> {
        Ok(Self {
            acceptor: acceptor(pem)?,
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        })
    }
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let shaken = match self.listener.accept().await {
                Ok((client, addr)) => {
                    let shaken = self.acceptor.accept(client).await;
                    shaken.map(|stream| (stream, addr))
                }
                Err(error) => Err(error),
            };
            match shaken {
                Ok(accepted) => return accepted,
                Err(error) => tracing::debug!(%error, "a connection could not be accepted"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Speaks TLS with clients of a Postgres and plain text with it. Who does not ask for TLS is sent
/// away, so that what arrives was encrypted. Dropping it ends it.
#[derive(Debug)]
pub struct PostgresTls {
    addr: SocketAddr,
    _accepting: JoinSet<()>,
}

impl PostgresTls {
    /// Starts it on a free port of loopback, with certificate and key in PEM files.
    ///
    /// # Errors
    /// When a file is no PEM, or there is no port to listen on.
    pub async fn start(upstream: SocketAddr, pem: &(PathBuf, PathBuf)) -> io::Result<Self> {
        let acceptor = acceptor(pem)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, upstream, acceptor));
        Ok(Self {
            addr,
            _accepting: accepting,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, acceptor: TlsAcceptor) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let acceptor = acceptor.clone();
                    connections.spawn(async move {
                        if let Err(error) = carry(client, upstream, acceptor).await {
                            tracing::debug!(%error, "a connection has ended");
                        }
                    });
                }
                Err(error) => tracing::debug!(%error, "a connection could not be accepted"),
            },
        }
    }
}

/// Carries one connection to its end.
async fn carry(
    mut client: TcpStream,
    upstream: SocketAddr,
    acceptor: TlsAcceptor,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut request = [0; SSL_REQUEST.len()];
    client.read_exact(&mut request).await?;
    if request != SSL_REQUEST {
        return Err(io::Error::other("it does not ask for TLS"));
    }
    client.write_all(b"S").await?;
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
