//! Where a hub or a peer is reached in the underlay: an address or a name, and a UDP port.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use crate::name::shown;

/// `198.51.100.7:51820`, `[2001:db8::7]:51820` or `hub.example:51820`. The port is never 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// An address: no resolver is needed.
    Address(SocketAddr),
    /// A name, resolved when it is needed and again when the peer is silent.
    Name {
        /// The host name, as written.
        host: String,
        /// The UDP port.
        port: u16,
    },
}

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// There is no `:PORT` at the end.
    #[error("`{0}` has no port")]
    NoPort(String),
    /// The port is 0, no number, or above 65535.
    #[error("`{0}` has no valid port: it must be 1 to 65535")]
    Port(String),
    /// An IPv6 address without brackets: where the port begins cannot be told.
    #[error("`{0}` is an IPv6 address without brackets")]
    Brackets(String),
    /// The part before the port is neither an address nor a host name.
    #[error("`{0}` has neither an address nor a host name before its port")]
    Host(String),
    /// An address that no datagram can be sent to: unspecified, broadcast or multicast.
    #[error("`{0}` is not the address of one machine")]
    Nobody(String),
}

impl EndpointError {
    /// What to write instead.
    pub(crate) fn fix(&self) -> String {
        match self {
            Self::NoPort(text) => {
                format!("write `{text}:51820`, with the port that the other side listens on")
            }
            Self::Port(_) | Self::Nobody(_) => {
                "write the address and port that the other side listens on, such as `198.51.100.7:51820`"
                    .into()
            }
            Self::Brackets(_) => "write it as `[2001:db8::7]:51820`".into(),
            Self::Host(_) => {
                "write `198.51.100.7:51820`, `[2001:db8::7]:51820` or `hub.example:51820`".into()
            }
        }
    }
}

impl Endpoint {
    /// The UDP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Name { port, .. } => *port,
        }
    }

    /// The IPv4 address, if it is known without a resolver (an IPv4-mapped IPv6 address is one).
    pub(crate) fn ipv4(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Address(address) => match address.ip().to_canonical() {
                IpAddr::V4(v4) => Some(v4),
                IpAddr::V6(_) => None,
            },
            Self::Name { .. } => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if text.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(EndpointError::Brackets(shown(text)));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(EndpointError::NoPort(shown(text)));
        };
        if host.starts_with('[') && text.ends_with(']') {
            return Err(EndpointError::NoPort(shown(text)));
        }
        // `u16::from_str` takes a leading "+".
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = match port.parse::<u16>() {
            Ok(port) if digits && port != 0 => port,
            _ => return Err(EndpointError::Port(shown(text))),
        };
        if let Ok(address) = text.parse::<SocketAddr>() {
            let nobody = match address.ip().to_canonical() {
                IpAddr::V4(v4) => v4.is_unspecified() || v4.is_broadcast() || v4.is_multicast(),
                IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
            };
            return if nobody { Err(EndpointError::Nobody(shown(text))) } else { Ok(Self::Address(address)) };
        }
        if host.contains(':') && !host.starts_with('[') {
            return Err(EndpointError::Brackets(shown(text)));
        }
        if !is_host_name(host) {
            return Err(EndpointError::Host(shown(text)));
        }
        Ok(Self::Name { host: host.into(), port })
    }
}

/// Labels of letters, digits, hyphens and underscores (RFC 1123, section 2.1, and what DNS servers hold in practice).
/// A last label of digits only would be a mistyped IPv4 address.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let labels = host.strip_suffix('.').unwrap_or(host);
    labels.len() <= 253
        && labels.split('.').all(label)
        && labels.rsplit('.').next().is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_read_and_display_the_same() {
        for text in
            ["198.51.100.7:51820", "[2001:db8::7]:1", "hub.example:65535", "hub_a:51820", "hub.example.:1"]
        {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        use EndpointError as E;
        type Why = fn(String) -> E;
        let cases: [(&str, Why); 15] = [
            ("hub.example", E::NoPort),
            ("198.51.100.7", E::NoPort),
            ("[2001:db8::7]", E::NoPort),
            ("", E::NoPort),
            ("hub.example:", E::Port),
            ("hub.example:0", E::Port),
            ("hub.example:+1", E::Port),
            ("hub.example:65536", E::Port),
            ("2001:db8::7:51820", E::Brackets),
            ("::1", E::Brackets),
            ("300.1.1.1:51820", E::Host),
            ("hub example:51820", E::Host),
            (":51820", E::Host),
            ("-hub:51820", E::Host),
            ("0.0.0.0:51820", E::Nobody),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<Endpoint>(), Err(why(text.into())), "{text}");
        }
    }
}
