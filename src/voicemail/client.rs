//! Mail with a message in it, by SMTP (lettre): what it says, and how it is sent.
//!
//! Not here: which mail is due, and how often one is tried (`worker.rs`).

use std::{error, fs, io, time::Duration};

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Attachment, Mailbox, MultiPart, SinglePart, header::ContentType},
    transport::smtp::{
        self,
        authentication::Credentials,
        client::{Certificate, CertificateStore, Tls as Encryption, TlsParameters},
    },
};
use rustls::CertificateError;

use super::settings::{Mail, Tls};
use crate::store::VoiceMessage;

/// For one mail, from the connection to the last answer: the longest message by a slow line.
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`voicemail.mail`: {0}")]
    Settings(String),
    /// The server will say the same tomorrow.
    #[error("the mail server refuses the mail: {0}")]
    Refused(String),
    #[error("the mail cannot be sent now: {0}")]
    Later(String),
    /// No mail will go out until somebody mends the settings, or the server.
    #[error("no mail can be sent: {0}")]
    Misfit(String),
}

/// Whether this is a mail address, with a name or without.
pub fn address(text: &str) -> Result<Mailbox, String> {
    text.parse().map_err(|fault: lettre::address::AddressError| fault.to_string())
}

pub struct Mailer {
    from: Mailbox,
    transport: AsyncSmtpTransport<Tokio1Executor>,
    patience: Duration,
}

impl Mailer {
    pub fn new(mail: &Mail) -> Result<Self, Error> {
        let fault = |fault: smtp::Error| Error::Settings(fault.to_string());
        let server = mail.server.as_str();
        let builder = match mail.tls {
            Tls::Starttls => AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(server).map_err(fault)?,
            Tls::Tls => AsyncSmtpTransport::<Tokio1Executor>::relay(server).map_err(fault)?,
            Tls::None => AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(server),
        };
        // Ours is for the whole mail; the transport's is for the connection only.
        let mut builder = builder.timeout(None);
        if let Some(file) = &mail.ca_file {
            let wrong = |reason: String| Error::Settings(format!("`ca_file`: {}: {reason}", file.display()));
            let pem = fs::read(file).map_err(|fault| wrong(fault.to_string()))?;
            // Lines of another kind are no fault to the parser: a file without certificates is one to us.
            if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
                return Err(wrong("it holds no PEM certificate".to_owned()));
            }
            let trusted = Certificate::from_pem(&pem).map_err(|fault| wrong(fault.to_string()))?;
            let tls = TlsParameters::builder(server.to_owned()).certificate_store(CertificateStore::None).add_root_certificate(trusted);
            let tls = tls.build().map_err(|fault| wrong(fault.to_string()))?;
            builder = match mail.tls {
                Tls::Starttls => builder.tls(Encryption::Required(tls)),
                Tls::Tls => builder.tls(Encryption::Wrapper(tls)),
                Tls::None => builder,
            };
        }
        if let Some(port) = mail.port {
            builder = builder.port(port);
        }
        if let Some(user) = &mail.user {
            let password = mail.password.as_ref().map(|password| password.expose().to_owned()).unwrap_or_default();
            builder = builder.credentials(Credentials::new(user.clone(), password));
        }
        Ok(Self { from: address(&mail.from).map_err(Error::Settings)?, transport: builder.build(), patience: PATIENCE })
    }

    pub async fn send(&self, to: &str, message: &VoiceMessage, wav: Vec<u8>) -> Result<(), Error> {
        let mail = self.letter(to, message, wav)?;
        match tokio::time::timeout(self.patience, self.transport.send(mail)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(fault)) => Err(told(&fault)),
            Err(_) => Err(Error::Later(format!(
                "the mail server has not answered to the end within {:?}; does it speak at this port what `voicemail.mail.tls` says?",
                self.patience
            ))),
        }
    }

    fn letter(&self, to: &str, message: &VoiceMessage, wav: Vec<u8>) -> Result<Message, Error> {
        let refused = |fault: String| Error::Refused(fault);
        let who = match message.from_name.as_str() {
            "" => message.from.clone(),
            name => format!("{name} ({})", message.from),
        };
        // Names come from phones: one line of them is enough.
        let who: String = who.chars().filter(|c| !c.is_control()).take(100).collect();
        let secs = message.length_ms.div_ceil(1000);
        let text = format!(
            "{who} has left a message for {} at {}.\nIt lasts {secs} s and is attached.\n\n\
             By phone: dial the number of your mailbox. Deleting this mail does not delete the message there.\n",
            message.mailbox, message.left
        );
        let wave = ContentType::parse("audio/wav").map_err(|fault| refused(format!("{fault:?}")))?;
        let attached = Attachment::new(format!("message-{}.wav", message.id)).body(wav, wave);
        Message::builder()
            .from(self.from.clone())
            .to(address(to).map_err(refused)?)
            .subject(format!("Voice message from {who}, {secs} s"))
            // The same message is the same mail, should it be sent twice.
            .message_id(Some(format!("<{}.{}@plugtone>", message.id, message.mailbox)))
            .multipart(MultiPart::mixed().singlepart(SinglePart::plain(text)).singlepart(attached))
            .map_err(|fault| refused(fault.to_string()))
    }
}

/// What is wrong, and which setting may be.
fn told(fault: &smtp::Error) -> Error {
    let text = fault.to_string();
    let misfit = |what: &str| Error::Misfit(format!("{text}: {what}"));
    if let Some(fault) = of_tls(fault) {
        return misfit(match fault {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                "nobody whom this machine trusts vouches for the server's certificate; `voicemail.mail.ca_file` names the certificate of \
                 an authority of your own"
            }
            rustls::Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
                "write the name that is in the certificate as `voicemail.mail.server`"
            }
            rustls::Error::InvalidCertificate(_) => "the mail server needs another certificate",
            _ => "does the server speak TLS at this port as `voicemail.mail.tls` says? `tls` is for port 465, `starttls` for 587",
        });
    }
    // What a server says of log-ins (RFC 4954 §6) it says of the settings, not of the mail.
    match fault.status().map(u16::from) {
        Some(534 | 535) => misfit("`voicemail.mail.user` and `voicemail.mail.password` (or `password_file`) are not what the server wants"),
        Some(530 | 538) => misfit("the server wants TLS or a log-in first: see `voicemail.mail.tls` and `voicemail.mail.user`"),
        _ if fault.is_permanent() => Error::Refused(text),
        _ if fault.is_client() && text.contains("STARTTLS") => misfit("`voicemail.mail.tls` is `starttls`"),
        _ if fault.is_client() && text.contains("authentication mechanism") => {
            misfit("the server offers no log-in by PLAIN or LOGIN here; without `voicemail.mail.user` there is none")
        }
        _ => Error::Later(text),
    }
}

/// What TLS had to say, however deep it lies.
fn of_tls<'a>(fault: &'a (dyn error::Error + 'static)) -> Option<&'a rustls::Error> {
    // An I/O error with another one in it gives that one's source as its own.
    let inside = fault.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let found = fault.downcast_ref().or_else(|| inside?.downcast_ref());
    found.or_else(|| of_tls(fault.source()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_says_who_called_and_carries_the_message() {
        let mail = Mail { server: "localhost".into(), tls: Tls::None, from: "Voicemail <v@example.com>".into(), ..Mail::default() };
        let mailer = Mailer::new(&mail).expect("good settings");
        let message = VoiceMessage {
            id: "7".into(),
            mailbox: "2042".into(),
            from: "2041".into(),
            from_name: "Zoë\r\nBcc: thief@example.com".into(),
            length_ms: 2100,
            ..VoiceMessage::default()
        };
        let letter = mailer.letter("bo@example.com", &message, b"RIFF\xff\x00".to_vec()).expect("a letter").formatted();
        let letter = String::from_utf8(letter).expect("ASCII");
        let head = letter.split("\r\n\r\n").next().expect("a head");
        assert!(head.contains("To: bo@example.com") && head.contains("Subject: ") && head.contains("<7.2042@plugtone>"), "{head}");
        assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
        assert!(letter.contains("audio/wav") && letter.contains("message-7.wav") && letter.contains("UklGRv8A"), "{letter}");
        assert!(mailer.letter("no address", &message, Vec::new()).is_err());
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_does_not_hold_up_the_mails_for_ever() {
        let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = silent.local_addr().expect("bound").port();
        let mail = Mail { server: "127.0.0.1".into(), port: Some(port), tls: Tls::None, from: "v@example.com".into(), ..Mail::default() };
        let mut mailer = Mailer::new(&mail).expect("good settings");
        mailer.patience = Duration::from_millis(50);
        let fault = mailer.send("bo@example.com", &VoiceMessage::default(), Vec::new()).await.expect_err("silence");
        assert!(matches!(&fault, Error::Later(text) if text.contains("`voicemail.mail.tls`")), "{fault}");
    }
}
