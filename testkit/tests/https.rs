//! Our client of other servers over TLS: it talks to who has the right certificate, and sends nothing
//! to anybody else.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

use std::sync::Arc;
use std::time::Duration;

use onsale_platform::http::{Answer, Failure, PlainHttp, Request, Server};
use onsale_testkit::Scratch;
use onsale_testkit::tls::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Serves one connection with a certificate for `name`; what the client got, and what it sent.
async fn ask(
    authority: &Authority,
    name: &str,
    trusted: &Authority,
) -> (Result<Answer, Failure>, String) {
    let (certificate, key) = authority.issue(name).unwrap();
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(stream).await else {
            return String::new();
        };
        let mut asked = vec![0; 4096];
        let count = stream.read(&mut asked).await.unwrap();
        asked.truncate(count);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
        stream.shutdown().await.unwrap();
        String::from_utf8(asked).unwrap()
    };
    let address = format!("https://127.0.0.1:{port}/pay").parse().unwrap();
    let server = Server::new(address, Some(trusted.file()), PlainHttp::Loopback, 1024).unwrap();
    let mut request = Request::get(server.path("/v1/x"));
    request = request.header("authorization", "Basic c2VjcmV0");
    let request = request.body(Vec::new().into()).unwrap();
    tokio::join!(server.ask(request, Duration::from_secs(10)), serving)
}

#[tokio::test]
async fn a_server_is_verified_before_anything_is_sent() {
    let scratch = Scratch::new("https").unwrap();
    let ours = Authority::make(&scratch.path().join("ours")).unwrap();
    let other = Authority::make(&scratch.path().join("other")).unwrap();
    let (answer, asked) = ask(&ours, "127.0.0.1", &ours).await;
    assert_eq!(&answer.unwrap().body[..], b"ok");
    assert!(asked.starts_with("GET /pay/v1/x HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("host: 127.0.0.1:"), "{asked}");
    for (authority, name) in [(&other, "127.0.0.1"), (&ours, "127.0.0.2")] {
        let (answer, asked) = ask(authority, name, &ours).await;
        let expected = Failure::NotSent("the TLS handshake failed");
        assert_eq!((answer, asked.as_str()), (Err(expected), ""), "{name}");
    }
}
