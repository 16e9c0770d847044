//! TLS from files in PEM, for servers and for callers.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// A handshake that takes longer is given up, so that half-open connections
/// cost nothing for long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A server's certificate. Files are read when the server starts: a renewed
/// certificate is served after the next start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub private_key: PathBuf,
    /// With this, only callers whose certificate it signed are served.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// What a caller trusts, and shows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsClientConfig {
    /// Who signed the servers' certificates.
    pub ca: PathBuf,
    /// The caller's own certificate chain, where servers ask for one.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// Its private key.
    #[serde(default)]
    pub private_key: Option<PathBuf>,
    /// The name to expect in the server's certificate, where it is not the
    /// address's host.
    #[serde(default)]
    pub domain: Option<String>,
}

/// Why TLS cannot be set up. A retry helps after the files have been mended.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A certificate came without its key, or a key without its certificate.
    #[error("`certificate` and `private_key` go together")]
    HalfIdentity,
    /// The files' content does not work together.
    #[error("certificate or key: {0}")]
    Invalid(#[from] tonic::transport::Error),
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

impl TlsConfig {
    pub(crate) fn load(&self) -> Result<ServerTlsConfig, TlsError> {
        let identity = Identity::from_pem(read(&self.certificate)?, read(&self.private_key)?);
        let mut config = ServerTlsConfig::new().identity(identity).timeout(HANDSHAKE_TIMEOUT);
        if let Some(ca) = &self.client_ca {
            config = config.client_ca_root(Certificate::from_pem(read(ca)?));
        }
        Ok(config)
    }
}

impl TlsClientConfig {
    pub(crate) fn load(&self) -> Result<ClientTlsConfig, TlsError> {
        let mut config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&self.ca)?))
            .timeout(HANDSHAKE_TIMEOUT);
        match (&self.certificate, &self.private_key) {
            (Some(certificate), Some(key)) => {
                config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
            }
            (None, None) => {}
            _ => return Err(TlsError::HalfIdentity),
        }
        if let Some(domain) = &self.domain {
            config = config.domain_name(domain.clone());
        }
        Ok(config)
    }
}
