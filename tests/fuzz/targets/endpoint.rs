//! Endpoints: what is accepted has a port, means one machine, and reads the same after being written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overlay_config::Endpoint;

fuzz_target!(|text: &str| {
    match text.parse::<Endpoint>() {
        Ok(endpoint) => {
            assert_ne!(endpoint.port(), 0);
            let written = endpoint.to_string();
            assert_eq!(written.parse::<Endpoint>().as_ref(), Ok(&endpoint), "{written}");
            match endpoint {
                Endpoint::Address(address) => {
                    let ip = address.ip().to_canonical();
                    assert!(!ip.is_unspecified() && !ip.is_multicast());
                }
                Endpoint::Name { host, .. } => {
                    assert!(
                        host.len() <= 254
                            && host.is_ascii()
                            && !host.contains([':', ' ', '/', '[', ']', '\0'])
                    );
                    assert!(host.parse::<std::net::IpAddr>().is_err(), "{host} is an address");
                }
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
