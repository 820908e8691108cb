//! Every kind of mistake: where it is found, how it reads, what it tells to do.

mod example;

use example::{HUB, NODE, edited, hub_says, key, node_says, node_says_with};
use overlay_config::{HostFacts, Overrides};

#[test]
fn the_examples_are_valid() {
    insta::assert_snapshot!(format!("{}{}", node_says(edited(NODE, &[])), hub_says(edited(HUB, &[]))), @"");
}

#[test]
fn version_missing() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("version = 1\n", "")])), @"
    x.toml:1:1: error: this file has no `version`
        make `version = 1` its first line
    ");
}

#[test]
fn version_of_the_future_is_not_read_on() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("version = 1", "version = 2"), ("slot = 56", "slot = 60")])), @"
    x.toml:1:11: error: this file is version 2, and this program reads version 1
        use the overlay-gw that it was written for, or write it anew with `overlay-gw plan`
    ");
}

#[test]
fn version_of_the_wrong_type() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("version = 1", r#"version = "1""#)])), @r#"
    x.toml:1:11: error: `version` in this file is a string ("1"), and must be an integer
        write it as `version = 1`
    "#);
}

#[test]
fn syntax() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 56", "slot = ")])), @"
    x.toml:5:8: error: not valid TOML: string values must be quoted, expected literal string
        TOML is `key = value`, texts in double quotes, sections in brackets: https://toml.io
    ");
}

#[test]
fn syntax_unclosed_string() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#"name = "cluster-1""#, r#"name = "cluster-1"#)])), @r#"
    x.toml:4:18: error: not valid TOML: invalid basic string, expected `"`
        TOML is `key = value`, texts in double quotes, sections in brackets: https://toml.io
    "#);
}

#[test]
fn key_twice_in_a_section() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 56", "slot = 56\nslot = 64")])), @"
    x.toml:6:1: error: not valid TOML: duplicate key
        it stands twice in the same section: keep one; several hubs or peers are `[[hubs]]`, `[[peers]]`
    ");
}

#[test]
fn section_twice() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("[[hubs]]", "[overlay]\n[[hubs]]")])), @"
    x.toml:14:2: error: not valid TOML: duplicate key
        it stands twice in the same section: keep one; several hubs or peers are `[[hubs]]`, `[[peers]]`
    ");
}

#[test]
fn peers_in_single_brackets() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("[[peers]]", "[peers]")])), @"
    x.toml:19:1: error: `peers` is a table, and must be a list of tables
        begin each one with `[[peers]]`, in double brackets
    ");
}

#[test]
fn binary_file() {
    insta::assert_snapshot!(node_says(b"version = 1\n\xff\xfe\0".as_slice()), @"
    x.toml:2:1: error: this is not a text file
        name a TOML file in UTF-8; an editor on Windows may have saved it as UTF-16
    ");
}

#[test]
fn file_with_nul() {
    insta::assert_snapshot!(node_says("version = 1\nname\0"), @"
    x.toml:2:5: error: this is not a text file
        name a TOML file in UTF-8; an editor on Windows may have saved it as UTF-16
    ");
}

#[test]
fn unknown_keys_offer_the_nearest() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("listen_port", "listen-port"), (r#"cidr = "172.16.8.0/24""#, r#"cidr = "172.16.8.0/24"
colour = 1"#), ("[[hubs]]", "[devices]\n[[hubs]]"), ("endpoint", "end_point")])), @"
    x.toml:7:1: error: unknown key `listen-port` in [node]
        did you mean `listen_port`?
    x.toml:11:1: error: unknown key `colour` in [overlay]
        known keys are: cidr, slot_prefix, dns, routes, signing_key, membership, relay, refuse, floating
    x.toml:15:2: error: unknown key `devices` in this file
        did you mean `device`?
    x.toml:19:1: error: unknown key `end_point` in [[hubs]]
        did you mean `endpoint`?
    ");
}

#[test]
fn secrets_in_the_file() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#"private_key_file = "cluster-1.key""#, r#"private_key = "x""#)])), @"
    x.toml:6:1: error: unknown key `private_key` in [node]
        secrets stay out of this file: put it into a file of its own and name that, `private_key_file`
    ");
}

#[test]
fn wrong_types() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#"name = "cluster-1""#, "name = 1"), ("slot = 56", "slot = 5.5"), ("51820", r#""51820""#), (r#"["172.16.0.1"]"#, r#""172.16.0.1""#), (r#"[{ cidr = "172.16.0.0/24", via = "hub-a" }]"#, r#"["172.16.0.0/24"]"#), (r#""198.51.100.1:51820""#, "[]")])), @r#"
    x.toml:4:8: error: `name` in [node] is an integer (1), and must be a string
        write it as `name = "cluster-1"`
    x.toml:5:8: error: `slot` in [node] is a float (5.5), and must be an integer or a string
        write it as `slot = 56`
    x.toml:7:15: error: `listen_port` in [node] is a string ("51820"), and must be an integer
        write it as `listen_port = 51820`
    x.toml:11:7: error: `dns` in [overlay] is a string ("172.16.0.1"), and must be an array
        write it as `dns = ["172.16.0.1"]`
    x.toml:12:11: error: `routes` in [overlay] is a list that holds a string ("172.16.0.0/24"), and must be a list of tables
        write it as `routes = [{ cidr = "172.16.0.0/24", via = "hub-a" }]`
    x.toml:17:12: error: `endpoint` in [[hubs]] is an array, and must be a string
        write it as `endpoint = "hub.example:51820"`
    "#);
}

#[test]
fn section_that_is_a_value() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("version = 1", r#"version = 1
device = "Overlay"
hubs = 1"#), (r#"[[hubs]]
name = "hub-a"
public_key = "{hub-a}"
endpoint = "198.51.100.1:51820"
"#, "")])), @"
    x.toml:2:10: error: `device` is a string, and must be a table
        begin a section `[device]` on a line of its own
    x.toml:3:8: error: `hubs` is an integer, and must be a list of tables
        begin each one with `[[hubs]]`, in double brackets
    x.toml:14:43: error: 172.16.0.0/24 goes via `hub-a`, and no hub or peer has that name
        known are: cluster-2
    ");
}

#[test]
fn missing_keys() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#"name = "cluster-1"
"#, ""), ("slot = 56\n", ""), (r#"cidr = "172.16.0.0/24", "#, ""), (r#"endpoint = "198.51.100.1:51820"
"#, ""), (r#"public_key = "{cluster-2}"
"#, "")])), @r#"
    x.toml:3:1: error: [node] has no `slot`
        add `slot = 56`
    x.toml:3:1: error: [node] has no `name`
        add `name = "cluster-1"`
    x.toml:10:11: error: [[routes]] has no `cidr`
        add `cidr = "172.16.0.0/24"`
    x.toml:12:1: error: [[hubs]] has no `endpoint`
        add `endpoint = "hub.example:51820"`
    x.toml:16:1: error: [[peers]] has no `public_key`
        add `public_key = "(what `wg pubkey` prints)"`
    "#);
}

#[test]
fn node_section_missing() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#"[node]
name = "cluster-1"
slot = 56
private_key_file = "cluster-1.key"
listen_port = 51820
"#, "")])), @"
    x.toml:1:1: error: this file has no [node]
        add a section `[node]` with `name` and `slot`
    ");
}

#[test]
fn slot_not_a_multiple_of_its_size() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 56", "slot = 60")])), @"
    x.toml:5:8: error: slot 60 is not a multiple of 8
        a /29 begins at a multiple of its 8 addresses: take 56 or 64
    ");
}

#[test]
fn last_slot_not_a_multiple() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 56", r#"slot = "172.16.8.250""#)])), @"
    x.toml:5:8: error: slot 172.16.8.250 is not a multiple of 8
        a /29 begins at a multiple of its 8 addresses: take 172.16.8.248
    ");
}

#[test]
fn slot_outside_the_overlay() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 56", r#"slot = "172.16.9.56""#)])), @"
    x.toml:5:8: error: slot 172.16.9.56 is outside the overlay 172.16.8.0/24
        take one from 172.16.8.0 to 172.16.8.248
    ");
}

#[test]
fn slot_that_is_no_octet() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 56", "slot = 256")])), @"
    x.toml:5:8: error: slot 256 is not the last octet of an address
        take 0 to 255, or name the slot by its first address, such as `172.16.8.0`
    ");
}

#[test]
fn slot_by_octet_in_a_large_overlay() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("172.16.8.0/24", "172.16.8.0/22")])), @"
    x.toml:5:8: error: slot 56 is ambiguous: the overlay 172.16.8.0/22 holds several of that last octet
        name it by its first address, such as `172.16.8.56`
    x.toml:22:8: error: slot 64 is ambiguous: the overlay 172.16.8.0/22 holds several of that last octet
        name it by its first address, such as `172.16.8.64`
    ");
}

#[test]
fn slot_that_is_nothing() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 56", r#"slot = "fifty-six""#)])), @"
    x.toml:5:8: error: `fifty-six` is no slot
        name it by its first address, `172.16.8.56`, or in a /24 by its last octet, `56`
    ");
}

#[test]
fn slot_of_another_size() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 56", r#"slot = "172.16.8.56/30""#)])), @"
    x.toml:5:8: error: slot 172.16.8.56/30 is a /30, and the overlay's slots are a /29
        name it by its first address, `172.16.8.56`
    ");
}

#[test]
fn slot_of_the_peer_is_ours() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 64", "slot = 56")])), @"
    x.toml:22:8: error: slot 172.16.8.56/29 is taken twice: by this node (line 5) and by peer `cluster-2`
        give each node a slot of its own: free is, for instance, 172.16.8.8/29
    ");
}

#[test]
fn slot_taken_twice_by_peers() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 64\n", r#"slot = 64
[[peers]]
name = "dc"
public_key = "{dc}"
slot = "172.16.8.64"
"#)])), @"
    x.toml:26:8: error: slot 172.16.8.64/29 is taken twice: by peer `cluster-2` (line 22) and by peer `dc`
        give each node a slot of its own: free is, for instance, 172.16.8.8/29
    ");
}

#[test]
fn slot_prefix_out_of_range() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("dns =", "slot_prefix = 31\ndns =")])), @"
    x.toml:11:15: error: slots cannot be a /31
        take 24 to 30; 29 gives each node a gateway, two addresses and 4 listeners
    ");
}

#[test]
fn overlay_of_too_many_slots() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("172.16.8.0/24", "10.0.0.0/8")])), @"
    x.toml:10:8: error: the overlay 10.0.0.0/8 holds 2097152 slots of a /29: more than 8192
        with slots of a /29 the overlay is a /16 or smaller
    ");
}

#[test]
fn overlay_smaller_than_a_slot() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("172.16.8.0/24", "172.16.8.56/30")])), @"
    x.toml:10:8: error: the overlay 172.16.8.56/30 is smaller than one slot, a /29
        give it at least a /29, or set a longer `slot_prefix`
    ");
}

#[test]
fn overlay_with_host_bits() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("172.16.8.0/24", "172.16.8.1/24")])), @"
    x.toml:10:8: error: 172.16.8.1/24 is not the first address of a /24
        write `172.16.8.0/24`, or `172.16.8.1/32` for that one address
    ");
}

#[test]
fn overlay_without_prefix() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("172.16.8.0/24", "172.16.8.0")])), @"
    x.toml:10:8: error: `172.16.8.0` has no prefix length
        write `172.16.8.0/32` for that one address, or the network, such as `172.16.8.0/24`
    ");
}

#[test]
fn overlay_in_ipv6() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("172.16.8.0/24", "fd00::/64")])), @"
    x.toml:10:8: error: `fd00::/64` is IPv6, and the overlay is IPv4
        write an IPv4 network
    ");
}

#[test]
fn overlay_that_is_loopback() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("172.16.8.0/24", "127.0.1.0/24")])), @"
    x.toml:10:8: error: 127.0.1.0/24 is loopback
        name a network that hosts are in
    ");
}

#[test]
fn allowed_ips_overlap_a_slot() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 64\n", r#"slot = 64
[[peers]]
name = "dc"
public_key = "{dc}"
allowed_ips = ["172.16.8.48/28"]
"#)])), @"
    x.toml:26:16: error: 172.16.8.48/28 of peer `dc` overlaps slot 172.16.8.56/29 of this node (line 5)
        take a part of the overlay that no slot uses: free is, for instance, 172.16.8.8/29
    ");
}

#[test]
fn allowed_ips_overlap_each_other() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#"198.51.100.1:51820""#, r#"198.51.100.1:51820"
allowed_ips = ["10.1.0.0/16"]"#), ("slot = 64\n", r#"slot = 64
[[peers]]
name = "dc"
public_key = "{dc}"
allowed_ips = ["10.1.2.0/24"]
"#)])), @"
    x.toml:27:16: error: 10.1.2.0/24 of peer `dc` overlaps 10.1.0.0/16 of hub `hub-a` (line 18)
        a network is behind one member only: remove it from one of the two, or make one smaller
    ");
}

#[test]
fn allowed_ips_take_the_default_route() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#"198.51.100.1:51820""#, r#"198.51.100.1:51820"
allowed_ips = ["0.0.0.0/0", "128.0.0.0/1"]"#)])), @"
    x.toml:18:16: error: 0.0.0.0/0 is the default route, which belongs to the host: all of its traffic would enter the overlay
        list only the networks that are behind this member, such as `172.16.0.0/24`
    x.toml:18:29: error: 128.0.0.0/1 is half of the default route, which belongs to the host: all of its traffic would enter the overlay
        list only the networks that are behind this member, such as `172.16.0.0/24`
    ");
}

#[test]
fn public_keys_that_are_none() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("{hub-a}", "c2hvcnQ="), ("{cluster-2}", "no key")])), @"
    x.toml:16:14: error: `public_key` is no key, it holds 5 bytes, not 32: `c2hvcnQ=`
        enter the 44 characters that `wg pubkey` prints
    x.toml:21:14: error: `public_key` is no key, it is not base64: `no key`
        enter the 44 characters that `wg pubkey` prints
    ");
}

#[test]
fn public_key_used_twice() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("{cluster-2}", "{hub-a}")])), @"
    x.toml:21:14: error: peer `cluster-2` has the same public key as hub `hub-a` (line 16): LNTjw4GR0x6YBNT4vp0Zb4lBakHFNRIg6DnUI0/cy2Y=
        each member has a key pair of its own: enter the right one, or make another
    ");
}

#[test]
fn public_key_that_is_ones_own() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("{cluster-2}", "{cluster-1}")])), @"
    x.toml:21:14: error: peer `cluster-2` has the public key /q+thsx8MnQHjVvpP0CGfBjCOwJwFRBLA+LRQJkgNwg=, which is this node's own
        enter the public key of the other machine: `wg pubkey` prints it from its private key
    ");
}

#[test]
fn key_file_missing() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("cluster-1.key", "absent.key")])), @"
    x.toml:6:20: error: cannot read the key file `absent.key`: there is no such file
        make it: (umask 077; wg genkey > /etc/overlay-gw/absent.key)
    ");
}

#[test]
fn key_file_denied() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("cluster-1.key", "denied.key")])), @"
    x.toml:6:20: error: cannot read the key file `denied.key`: this process may not read it
        run as the user that owns it, root for a service
    ");
}

#[test]
fn key_file_readable_by_others() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("cluster-1.key", "open.key")])), @"
    x.toml:6:20: error: the key file `open.key` can be read by others
        chmod 600 /etc/overlay-gw/open.key
    ");
}

#[test]
fn key_file_empty() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("cluster-1.key", "empty.key")])), @"
    x.toml:6:20: error: the key file `empty.key` holds no key: it is empty
        put there what `wg genkey` prints
    ");
}

#[test]
fn key_file_of_the_wrong_length() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("cluster-1.key", "short.key")])), @"
    x.toml:6:20: error: the key file `short.key` holds no key: it holds 5 bytes, not 32
        put there what `wg genkey` prints
    ");
}

#[test]
fn key_file_binary() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("cluster-1.key", "binary.key")])), @"
    x.toml:6:20: error: the key file `binary.key` holds no key: it is not base64
        put there what `wg genkey` prints
    ");
}

#[test]
fn preshared_key_file_missing() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 64\n", r#"slot = 64
preshared_key_file = "psk"
"#)])), @"
    x.toml:23:22: error: cannot read the key file `psk`: there is no such file
        make it: (umask 077; wg genpsk > /etc/overlay-gw/psk)
    ");
}

#[test]
fn endpoint_without_port() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("198.51.100.1:51820", "hub.example")])), @"
    x.toml:17:12: error: the endpoint `hub.example` has no port
        write `hub.example:51820`, with the port that the other side listens on
    ");
}

#[test]
fn endpoint_with_port_0() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("198.51.100.1:51820", "198.51.100.1:0")])), @"
    x.toml:17:12: error: the endpoint `198.51.100.1:0` has no valid port: it must be 1 to 65535
        write the address and port that the other side listens on, such as `198.51.100.7:51820`
    ");
}

#[test]
fn endpoint_malformed() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("198.51.100.1:51820", "300.1.1.1:51820")])), @"
    x.toml:17:12: error: the endpoint `300.1.1.1:51820` has neither an address nor a host name before its port
        write `198.51.100.7:51820`, `[2001:db8::7]:51820` or `hub.example:51820`
    ");
}

#[test]
fn endpoint_ipv6_without_brackets() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("198.51.100.1:51820", "2001:db8::1:51820")])), @"
    x.toml:17:12: error: the endpoint `2001:db8::1:51820` is an IPv6 address without brackets
        write it as `[2001:db8::7]:51820`
    ");
}

#[test]
fn endpoint_inside_the_overlay() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("198.51.100.1:51820", "172.16.8.65:51820")])), @"
    x.toml:17:12: error: the endpoint 172.16.8.65:51820 of hub `hub-a` is inside the overlay 172.16.8.0/24
        the tunnel cannot run through itself: enter the address that the machine has outside the overlay
    ");
}

#[test]
fn endpoint_inside_a_route() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("198.51.100.1:51820", "172.16.0.9:51820")])), @"
    x.toml:17:12: warning: the endpoint 172.16.0.9:51820 of hub `hub-a` is in 172.16.0.0/24, which is routed into the overlay
        unless the host has a more specific route to it, the tunnel cannot be reached: enter an address outside
    ");
}

#[test]
fn dns_that_is_a_gateway_or_broadcast() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#""172.16.0.1""#, r#""172.16.8.56", "172.16.8.63", "172.16.8.120""#)])), @"
    x.toml:11:8: error: the DNS server 172.16.8.56 is the gateway of slot 172.16.8.56/29: no host has it
        enter the address of the DNS server itself, such as a domain controller's
    x.toml:11:23: error: the DNS server 172.16.8.63 is the broadcast address of slot 172.16.8.56/29: no host has it
        enter the address of the DNS server itself, such as a domain controller's
    x.toml:11:38: error: the DNS server 172.16.8.120 is the gateway of slot 172.16.8.120/29: no host has it
        enter the address of the DNS server itself, such as a domain controller's
    ");
}

#[test]
fn dns_that_is_no_address() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#""172.16.0.1""#, r#""dc.example", "127.0.0.1""#)])), @r#"
    x.toml:11:8: error: the DNS server `dc.example` is no IPv4 address
        enter its address, such as "172.16.0.1"
    x.toml:11:22: error: the DNS server 127.0.0.1 cannot be reached through the overlay
        enter the address of the DNS server itself, such as a domain controller's
    "#);
}

#[test]
fn dns_that_no_route_covers() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#""172.16.0.1""#, r#""172.16.0.1", "172.16.8.66", "9.9.9.9""#)])), @r#"
    x.toml:11:37: warning: the DNS server 9.9.9.9 is in no network that the overlay routes
        queries to it take the host's own way; to carry them, route its network: `routes = [{ cidr = "9.9.9.0/24", via = "HUB" }]`
    "#);
}

#[test]
fn route_via_an_unknown_name() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#"via = "hub-a""#, r#"via = "hub_a""#)])), @"
    x.toml:12:43: error: 172.16.0.0/24 goes via `hub_a`, and no hub or peer has that name
        did you mean `hub-a`?
    ");
}

#[test]
fn route_via_nothing_like_it() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#"via = "hub-a""#, r#"via = "somewhere""#)])), @"
    x.toml:12:43: error: 172.16.0.0/24 goes via `somewhere`, and no hub or peer has that name
        known are: hub-a, cluster-2
    ");
}

#[test]
fn route_that_overlaps_the_overlay() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("172.16.0.0/24", "172.16.0.0/12")])), @"
    x.toml:12:20: error: the route 172.16.0.0/12 overlaps the overlay 172.16.8.0/24
        routes are for networks beyond the overlay: remove it, the overlay itself needs none
    ");
}

#[test]
fn route_that_is_the_default_route() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("172.16.0.0/24", "0.0.0.0/0")])), @"
    x.toml:12:20: error: 0.0.0.0/0 is the default route, which belongs to the host: all of its traffic would enter the overlay
        list only the networks that are behind this member, such as `172.16.0.0/24`
    ");
}

#[test]
fn route_twice() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#"[{ cidr = "172.16.0.0/24", via = "hub-a" }]"#, r#"[
  { cidr = "172.16.0.0/24", via = "hub-a" },
  { cidr = "172.16.0.0/24", via = "cluster-2" },
]"#)])), @"
    x.toml:14:12: error: 172.16.0.0/24 is routed twice, the first time at line 13
        keep one of them
    ");
}

#[test]
fn route_that_another_peer_has() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 64\n", r#"slot = 64
[[peers]]
name = "dc"
public_key = "{dc}"
allowed_ips = ["172.16.0.0/24"]
"#)])), @"
    x.toml:12:43: error: 172.16.0.0/24 goes via `hub-a`, but is in the allowed_ips of peer `dc` (line 26)
        a network is behind one member: remove one of the two
    ");
}

#[test]
fn route_via_this_node() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#"via = "hub-a""#, r#"via = "cluster-1""#)])), @"
    x.toml:12:43: warning: 172.16.0.0/24 goes via `cluster-1`, which is this node: a node sends only from its own slot
        put the network behind a hub or a plain WireGuard member
    ");
}

#[test]
fn mtu_and_queues_out_of_range() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("[[hubs]]", "[device]\nmtu = 575\nqueues = 0\n\n[[hubs]]")])), @"
    x.toml:15:7: error: `mtu` is 575, which is not in 576 to 65475
        576 is what every IPv4 host takes (RFC 791); 65475 is the largest that fits a datagram after WireGuard's 60 bytes; 1420 suits an Internet path
    x.toml:16:10: error: `queues` is 0, which is not in 1 to 256
        a device has at most 256 queues; leave `queues` out to have it chosen by the number of cores
    ");
}

#[test]
fn device_name_too_long() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("[[hubs]]", r#"[device]
name = "a-name-of-17-byte"

[[hubs]]"#)])), @"
    x.toml:15:8: error: `a-name-of-17-byte` cannot be a device's name: it has 17 bytes, and the kernel takes 15
        use 1 to 15 letters, digits, `-`, `_` and `.`, such as `Overlay`
    ");
}

#[test]
fn device_name_with_a_slash() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("[[hubs]]", r#"[device]
name = "a/b"
mode = "tub"

[[hubs]]"#)])), @r#"
    x.toml:15:8: error: `a/b` cannot be a device's name: it holds `/`
        use 1 to 15 letters, digits, `-`, `_` and `.`, such as `Overlay`
    x.toml:16:8: error: `mode` cannot be "tub"
        it is one of "tun", "tap"
    "#);
}

#[test]
fn names_that_are_no_file_names() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#""cluster-1""#, r#""""#), (r#"name = "hub-a""#, r#"name = "../hub""#), (r#"via = "hub-a""#, r#"via = "cluster-2""#), (r#""cluster-2""#, r#""COM1""#), (r#"via = "COM1""#, r#"via = "x""#)])), @"
    x.toml:4:8: error: the name is empty
        use letters, digits, `-`, `_` and `.`, beginning with a letter or digit, at most 63
    x.toml:12:43: error: 172.16.0.0/24 goes via `x`, and no hub or peer has that name
        known are: cluster-2
    x.toml:15:8: error: `../hub` cannot be a name: it also names files
        use letters, digits, `-`, `_` and `.`, beginning with a letter or digit, at most 63
    ");
}

#[test]
fn names_taken_twice() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#"name = "cluster-2""#, r#"name = "Hub-A""#)])), @"
    x.toml:20:8: error: the name `Hub-A` is taken twice: by hub `hub-a` (line 15) and by peer `Hub-A`
        give each member a name of its own; upper and lower case count as the same
    ");
}

#[test]
fn floating_ranges() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("[[hubs]]", r#"[[overlay.floating]]
cidr = "172.16.8.48/28"
slots = [56, 60]
[[overlay.floating]]
cidr = "172.16.9.0/28"
slots = []
[[overlay.floating]]
cidr = "172.16.8.192/28"
slots = [64, 64]

[[hubs]]"#)])), @"
    x.toml:15:8: error: the floating range 172.16.8.48/28 overlaps slot 172.16.8.56/29 of this node (line 5)
        take a part of the overlay that no slot uses: free is, for instance, 172.16.8.8/29
    x.toml:16:14: error: slot 60 is not a multiple of 8
        a /29 begins at a multiple of its 8 addresses: take 56 or 64
    x.toml:18:8: error: the floating range 172.16.9.0/28 is not inside the overlay 172.16.8.0/24
        take a part of the overlay that no slot uses
    x.toml:19:9: error: no slot may hold this floating range's addresses
        list the slots, such as `slots = [56, 64]`
    x.toml:22:14: error: slot 172.16.8.64/29 is listed twice
        remove it once
    ");
}

#[test]
fn keepalive_out_of_range() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 64\n", "slot = 64\npersistent_keepalive = 0\n")])), @"
    x.toml:23:24: error: `persistent_keepalive` is 0, which is not in 1 to 65535
        in seconds; 25 keeps most NATs open, and leaving it out sends nothing while there is no traffic
    ");
}

#[test]
fn words_that_are_unknown() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("dns =", r#"relay = "open"
refuse = "drop"
membership = "all"
dns ="#), ("[[hubs]]\n", r#"[[hubs]]
kind = "openvpn"
"#)])), @r#"
    x.toml:11:9: error: `relay` cannot be "open"
        it is one of "sealed", "routed"
    x.toml:12:10: error: `refuse` cannot be "drop"
        it is one of "reset", "unreachable", "silent"
    x.toml:13:14: error: `membership` cannot be "all"
        it is one of "signed", "file"
    x.toml:18:8: error: `kind` cannot be "openvpn"
        it is one of "overlay-gw", "wireguard"
    "#);
}

#[test]
fn signing_keys_that_verify_nothing() {
    insta::assert_snapshot!([
        "not base64", "c2hvcnQ=", "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    ].map(|key| node_says(edited(NODE, &[("dns =", &format!("signing_key = \"{key}\"\ndns ="))]))).join("\n"), @"
    x.toml:11:15: error: `signing_key` is no key, it is not base64: `not base64`
        enter the base64 of the signing key's public half, as `overlay-gw plan` wrote it
    x.toml:11:15: error: `signing_key` is no key, it holds 5 bytes, not 32: `c2hvcnQ=`
        enter the base64 of the signing key's public half, as `overlay-gw plan` wrote it
    x.toml:11:15: error: `signing_key` is no key, no signature can be verified with it: `AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=`
        enter the base64 of the signing key's public half, as `overlay-gw plan` wrote it
    x.toml:11:15: error: `signing_key` is no key, no signature can be verified with it: `AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=`
        enter the base64 of the signing key's public half, as `overlay-gw plan` wrote it
    ");
}

#[test]
fn a_route_via_a_member_that_only_a_record_may_name() {
    let signed = "signing_key = \"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\"\ndns =";
    insta::assert_snapshot!(node_says(edited(NODE, &[("dns =", signed), ("via = \"hub-a\"", "via = \"hub-b\"")])), @"
    x.toml:13:43: warning: 172.16.0.0/24 goes via `hub-b`, which is not in this file: until a signed record brings it, the network is not reached
        right if a record names it; did you mean `hub-a`?
    ");
}

#[test]
fn signed_membership_without_a_key() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("dns =", r#"membership = "signed"
dns ="#)])), @r#"
    x.toml:11:14: error: `membership = "signed"` needs the overlay's signing key, and there is none
        add `signing_key`, or write `membership = "file"` to trust only what is in this file
    "#);
}

#[test]
fn peer_with_neither_slot_nor_allowed_ips() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 64\n", "")])), @"
    x.toml:19:1: error: peer `cluster-2` has neither a slot nor allowed_ips
        give an overlay-gw node its `slot`, and a plain WireGuard member its `allowed_ips`
    ");
}

#[test]
fn peer_with_both() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 64\n", r#"slot = 64
allowed_ips = ["10.1.0.0/16"]
"#)])), @"
    x.toml:23:15: error: peer `cluster-2` has both a slot and allowed_ips
        give an overlay-gw node its `slot`, and a plain WireGuard member its `allowed_ips`
    ");
}

#[test]
fn peer_with_empty_allowed_ips() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 64", "allowed_ips = []")])), @"
    x.toml:22:15: error: peer `cluster-2` has no slot, and its allowed_ips are empty
        give an overlay-gw node its `slot`, and a plain WireGuard member its `allowed_ips`
    ");
}

#[test]
fn hub_section_in_a_nodes_file() {
    insta::assert_snapshot!(node_says(edited(HUB, &[])), @"
    x.toml:3:1: error: [hub] does not belong in a node's file
        start a hub with `overlay-gw hub --config FILE`; a node's file has [node]
    ");
}

#[test]
fn node_section_in_a_hubs_file() {
    insta::assert_snapshot!(hub_says(edited(NODE, &[])), @"
    x.toml:3:1: error: [node] does not belong in a hub's file
        start a node with `overlay-gw up --config FILE`; a hub's file has [hub]
    ");
}

#[test]
fn device_in_a_hubs_file() {
    insta::assert_snapshot!(hub_says(edited(HUB, &[("[overlay]", "[device]\nmtu = 1280\n\n[overlay]")])), @"
    x.toml:8:1: error: [device] does not belong in a hub's file: a hub has no adapter
        remove the section
    ");
}

#[test]
fn hub_without_a_port() {
    insta::assert_snapshot!(hub_says(edited(HUB, &[("listen_port = 51820\n", "")])), @"
    x.toml:3:1: error: [hub] has no `listen_port`
        add `listen_port = 51820`: the members' files name it in the hub's endpoint
    ");
}

#[test]
fn hub_on_any_port() {
    insta::assert_snapshot!(hub_says(edited(HUB, &[("51820", "0")])), @"
    x.toml:6:15: warning: the hub listens on any free port, a new one each time
        name the port that the members' files have in the hub's endpoint
    ");
}

#[test]
fn network_behind_the_hub_that_no_member_has() {
    insta::assert_snapshot!(hub_says(edited(HUB, &[(r#", "172.16.0.0/24""#, "")])), @r#"
    x.toml:11:43: warning: 172.16.0.0/24 is behind this hub, and no member here has it in its allowed_ips
        add the router of that network as [[peers]] with `allowed_ips = ["172.16.0.0/24"]`
    "#);
}

#[test]
fn route_via_what_this_hub_does_not_know() {
    insta::assert_snapshot!(hub_says(edited(HUB, &[(r#"via = "hub-a""#, r#"via = "hub-b""#)])), @"
    x.toml:11:43: warning: 172.16.0.0/24 goes via `hub-b`, which this hub does not know: it will not carry it
        right if that is another hub; did you mean `hub-a`?
    ");
}

#[test]
fn whole_overlay_behind_our_own_hub() {
    insta::assert_snapshot!(node_says(edited(NODE, &[(r#"198.51.100.1:51820""#, r#"198.51.100.1:51820"
allowed_ips = ["172.16.8.0/24"]"#)])), @"
    x.toml:18:16: warning: 172.16.8.0/24 of hub `hub-a` contains the overlay, which every hub carries anyway
        list only the networks behind the hub
    ");
}

#[test]
fn group_that_is_none() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("[[hubs]]", r#"[control]
group = ""

[[hubs]]"#)])), @"
    x.toml:15:9: error: `` cannot be the name of a group
        name a group of this host, or remove `group`
    ");
}

#[test]
fn windows_switch_that_is_none() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("[[hubs]]", r#"[device.windows]
icmp = "no"
smbb = false

[[hubs]]"#)])), @r#"
    x.toml:15:8: error: `icmp` in [device.windows] is a string ("no"), and must be true or false
        write it as `icmp = true`
    x.toml:16:1: error: unknown key `smbb` in [device.windows]
        did you mean `smb`?
    "#);
}

#[test]
fn flags_are_named_when_they_are_wrong() {
    insta::assert_snapshot!({
    let text = |text: &str| Some(text.to_owned());
    let overrides = Overrides {
        slot: text("60"), overlay: text("172.16.8.0/24"), device: text(""), mode: text("tab"), listen: text("x:1"), state_key: None,
    };
    node_says_with(edited(NODE, &[]), &overrides, &HostFacts::default())
}, @r#"
    --device: error: `` cannot be a device's name: it is empty
        use 1 to 15 letters, digits, `-`, `_` and `.`, such as `Overlay`
    --mode: error: `mode` cannot be "tab"
        it is one of "tun", "tap"
    --slot: error: slot 60 is not a multiple of 8
        a /29 begins at a multiple of its 8 addresses: take 56 or 64
    --listen: error: `x:1` is neither a port nor an address with a port
        write `51820`, `198.51.100.7:51820` or `[2001:db8::7]:51820`
    "#);
}

#[test]
fn slot_flag_that_a_peer_has() {
    insta::assert_snapshot!({
    let overrides = Overrides { slot: Some("64".into()), ..Overrides::default() };
    node_says_with(edited(NODE, &[]), &overrides, &HostFacts::default())
}, @"
    x.toml:22:8: error: slot 172.16.8.64/29 is taken twice: by this node (--slot) and by peer `cluster-2`
        give each node a slot of its own: free is, for instance, 172.16.8.8/29
    ");
}

#[test]
fn state_key_that_a_peer_has() {
    insta::assert_snapshot!({
    let overrides = Overrides { state_key: Some(key("cluster-2")), ..Overrides::default() };
    node_says_with(edited(NODE, &[("private_key_file = \"cluster-1.key\"\n", "")]), &overrides, &HostFacts::default())
}, @"
    x.toml:20:14: error: peer `cluster-2` has the public key /7kcaWWMoY6pnVKjS3QilQIA8jkUic/nfP98hsm73lI=, which is this node's own
        enter the public key of the other machine: `wg pubkey` prints it from its private key
    ");
}

#[test]
fn overlay_that_overlaps_the_host() {
    insta::assert_snapshot!({
    let address = |interface: &str, net: &str| (interface.to_owned(), net.parse().unwrap());
    let host = HostFacts { addresses: vec![
        address("Overlay", "172.16.8.57/29"), address("eth1", "172.16.0.20/16"), address("eth2", "172.16.0.9/24"),
    ] };
    node_says_with(edited(NODE, &[]), &Overrides::default(), &host)
}, @"
    x.toml:10:8: error: the overlay 172.16.8.0/24 overlaps 172.16.0.20/16, an address of this host on eth1
        choose another overlay for all members, or remove 172.16.0.20 from eth1
    x.toml:12:20: warning: the route 172.16.0.0/24 covers 172.16.0.20, an address of this host on eth1
        the host is in that network already: remove the route, or make it more specific
    ");
}

#[test]
fn many_mistakes_in_one_go() {
    insta::assert_snapshot!(node_says(edited(NODE, &[("slot = 56", "slot = 60"), ("cluster-1.key", "open.key"), (r#""172.16.0.1""#, r#""172.16.8.63""#), (r#"via = "hub-a""#, r#"via = "hub-b""#), ("198.51.100.1:51820", "hub.example"), ("{cluster-2}", "short"), ("slot = 64", "slots = 64")])), @"
    x.toml:5:8: error: slot 60 is not a multiple of 8
        a /29 begins at a multiple of its 8 addresses: take 56 or 64
    x.toml:6:20: error: the key file `open.key` can be read by others
        chmod 600 /etc/overlay-gw/open.key
    x.toml:11:8: error: the DNS server 172.16.8.63 is the broadcast address of slot 172.16.8.56/29: no host has it
        enter the address of the DNS server itself, such as a domain controller's
    x.toml:12:43: error: 172.16.0.0/24 goes via `hub-b`, and no hub or peer has that name
        did you mean `hub-a`?
    x.toml:17:12: error: the endpoint `hub.example` has no port
        write `hub.example:51820`, with the port that the other side listens on
    x.toml:21:14: error: `public_key` is no key, it is not base64: `short`
        enter the 44 characters that `wg pubkey` prints
    x.toml:22:1: error: unknown key `slots` in [[peers]]
        did you mean `slot`?
    ");
}
