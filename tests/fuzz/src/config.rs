//! `config.json`: any text is a configuration or one sentence that names the file; a configuration that is written is
//! read again as it was.

use std::path::Path;

use machnet_config::Config;

pub(crate) fn run(text: &[u8]) {
    let file = Path::new("here.json");
    match Config::parse(file, text) {
        Ok(config) => {
            let again = serde_json::to_vec(&config).expect("string keys");
            assert_eq!(Config::parse(file, &again).as_ref(), Ok(&config));
        }
        Err(error) => assert!(error.to_string().contains("here.json"), "{error}"),
    }
}
