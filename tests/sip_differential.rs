//! Our message view against another parser, `rsip`, on what that one accepts: well-formed messages over IPv4, long names,
//! nothing folded. Both must see the same method, addresses, tags, numbers and body.

use bytes::Bytes;
use plugtone::sip::{Message, Name};
use rsip::prelude::{HasHeaders, HeadersExt, ToTypedHeader, UntypedHeader};

/// A message of a seeded choice of parts that both parsers must take.
fn compose(seed: u64) -> String {
    let pick = |n: u64, options: &[&str]| options[((seed / n) % options.len() as u64) as usize].to_owned();
    let method = pick(1, &["INVITE", "REGISTER", "OPTIONS", "BYE", "INFO", "NOTIFY"]);
    let start = if seed % 5 == 4 {
        pick(7, &["SIP/2.0 200 OK", "SIP/2.0 180 Ringing", "SIP/2.0 486 Busy Here"])
    } else {
        let uri = pick(3, &["sip:2041@10.0.0.1", "sip:10.0.0.1:5070", "sip:ada@pbx.example.com;transport=udp"]);
        format!("{method} {uri} SIP/2.0")
    };
    let via = pick(2, &["10.0.0.5:5060", "phone.example.com", "192.168.1.77:1024"]);
    let display = pick(4, &["", "\"Ada L.\" ", "Ada "]);
    let body = pick(6, &["", "v=0\r\no=- 1 1 IN IP4 10.0.0.5\r\ns=-\r\n", "x"]);
    let to_tag = pick(8, &["", ";tag=b77"]);
    let contact = pick(9, &["", "Contact: <sip:2041@10.0.0.5:5060>;expires=60\r\n", "Contact: <sip:a@h.example.com>\r\n"]);
    let more = pick(10, &["", "X-Unknown: some, value; here\r\n", "Expires: 3600\r\n", "Subject: lunch\r\n"]);
    format!(
        "{start}\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bK{seed:x};rport\r\nMax-Forwards: {}\r\n\
         From: {display}<sip:2041@example.com>;tag=a{seed}\r\nTo: <sip:2042@example.com>{to_tag}\r\n\
         Call-ID: {seed}@10.0.0.5\r\nCSeq: {} {method}\r\n{contact}{more}Content-Length: {}\r\n\r\n{body}",
        seed % 71,
        seed % 100_000 + 1,
        body.len()
    )
}

#[test]
fn both_parsers_see_the_same() {
    for seed in 0..3000u64 {
        let text = compose(seed.wrapping_mul(0x9e37_79b9) >> 3);
        let ours = Message::parse(Bytes::from(text.clone())).unwrap_or_else(|e| panic!("{e}\n{text}"));
        ours.check().unwrap_or_else(|e| panic!("{e}\n{text}"));
        let theirs = rsip::SipMessage::try_from(text.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{text}"));
        match &theirs {
            rsip::SipMessage::Request(request) => {
                assert_eq!(ours.method().unwrap().as_str(), request.method.to_string());
                assert_eq!(ours.uri().unwrap().host(), request.uri.host_with_port.host.to_string());
                assert_eq!(ours.uri().unwrap().raw_user(), request.uri.auth.as_ref().map(|auth| auth.user.as_str()));
            }
            rsip::SipMessage::Response(response) => assert_eq!(ours.status(), Some(response.status_code.code())),
        }
        let typed = |value: rsip::headers::From| value.typed().expect("From");
        let from = typed(theirs.from_header().expect("From").clone());
        assert_eq!(ours.from().unwrap().tag().map(str::to_owned), from.tag().map(|tag| tag.to_string()), "{text}");
        let to = theirs.to_header().expect("To").typed().expect("To");
        assert_eq!(ours.to().unwrap().tag().map(str::to_owned), to.tag().map(|tag| tag.to_string()), "{text}");
        let via = theirs.via_header().expect("Via").typed().expect("Via");
        assert_eq!(ours.via().unwrap().branch().map(str::to_owned), via.branch().map(|branch| branch.to_string()));
        assert_eq!(ours.via().unwrap().host(), via.uri.host_with_port.host.to_string());
        let cseq = theirs.cseq_header().expect("CSeq").typed().expect("CSeq");
        assert_eq!((ours.cseq().unwrap().number, ours.cseq().unwrap().method), (cseq.seq, cseq.method.to_string().as_str()));
        assert_eq!(ours.call_id().unwrap(), theirs.call_id_header().expect("Call-ID").value());
        assert_eq!(ours.headers().count(), theirs.headers().iter().count(), "{text}");
        assert_eq!(ours.header(Name::Contact).is_some(), theirs.contact_header().is_ok());
        assert_eq!(ours.body(), theirs.body().as_slice());
    }
}
