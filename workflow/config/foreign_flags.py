"""Flags that people know from transformers' scripts and other tools, and what stands for them."""

_COLUMNS = 'the keys "prompt" and "completion" (clf.py: "input" and "target")'
_ALL_WEIGHTS = "training of all weights", "leave it out: there are no adapters; see --dry_run"
_FLOAT32 = "master weights in float32", "leave it out: weights are not quantized; see --dry_run"
_ONE_DATA = "one name for the data of all splits", "use --data_name"
_EACH_STEP = "an evaluation every so many steps", "use --eval_steps"
_WHOLE_RUN = (
    "a run of the length that was asked for",
    "leave it out: there is no early stopping; the checkpoint that is best by "
    "--metric_for_best_model is kept",
)
_BATCH = "a batch over all devices together"
_MODEL = "a name of the model", "use --model_init_path, or --model_init_name in mount/models"
_OWN_TOKENIZER = "the settings in the model's own folder", "leave it out"
_TOKENS = "tokens of prompts and of completions, each with a limit"
_LIMITS = _TOKENS, "use --max_source_length and --max_target_length"
_NEW_TOKENS = "a limit of what is generated", "use --max_new_tokens"
_BEAMS = "the number of beams", "use --num_beams"
_READ_ONCE = "data that are tokenized once and then read as they are needed", "leave it out"
_WHOLE_DATA = "all records of the data", "write a file with fewer records"
_NO_UPLOAD = "checkpoints in the run's folder", "leave it out, and upload one with the hub's `hf`"
_AS_WRITTEN = "the model as transformers writes it", "leave it out: nothing is compiled"
_SORTED = "batches by --seed, computed sorted by length", "leave it out"
_ON_CPU = "a machine's GPUs if it has some", "set the environment variable CUDA_VISIBLE_DEVICES="
_FP32 = "bf16 or fp32", "use --bf16 true, or --bf16 false for fp32"
_LAUNCHED = "processes that a launcher or --num_processes starts", "leave it out"
_ADAM = "AdamW's own 0.9, 0.999 and 1e-8", "leave it out"
_BY_ITSELF = "what a run does by itself", "leave it out"
_WANDB = "a variable of the environment", "set WANDB_PROJECT or WANDB_ENTITY"
_ACCUMULATION = "batches per optimizer step", "use --gradient_accumulation_steps"
_EPOCHS = "passes over the train records", "use --num_train_epochs"
_STEPS = "the length of the run in steps", "use --max_steps"
_RATE = "the peak learning rate", "use --learning_rate"
_RUN_NAME = "a name inside mount/models", "use --training_run_name"

_GROUPS: tuple[tuple[str, tuple[str, str]], ...] = (
    # the model
    ("model_name_or_path model_name model_path model pretrained_model_name_or_path "
     "base_model", _MODEL),
    ("tokenizer_name config_name config_overrides use_fast_tokenizer resize_position_embeddings "
     "generation_config", _OWN_TOKENIZER),
    ("cache_dir", ("the hub's own cache", "set the environment variable HF_HOME")),
    ("model_revision revision",
     ("a folder of that revision", "download it, and use --model_init_path")),
    ("trust_remote_code", ("models that transformers itself knows",
                           "leave it out: no code of a model's folder is run")),
    ("token use_auth_token hub_token",
     ("a variable of the environment", "set HF_TOKEN")),
    ("local_files_only", ("a variable of the environment", "set HF_HUB_OFFLINE=1")),
    ("use_lora use_peft peft lora lora_r lora_rank lora_alpha lora_dropout lora_target_modules "
     "use_adapter train_adapter freeze_encoder freeze_embeds", _ALL_WEIGHTS),
    ("load_in_8bit load_in_4bit quantization use_qlora qlora quantization_config", _FLOAT32),
    # data
    ("train_file validation_file test_file eval_file train_data eval_data train_path data_path "
     "dataset_name dataset dataset_config_name dataset_config data_dir task_name", _ONE_DATA),
    ("text_column summary_column source_column target_column prompt_column completion_column "
     "input_column question_column answer_column context_column column_names text_column_name "
     "label_column_name", (_COLUMNS, "name them so in the data")),
    ("source_prefix prefix", ("prompts as the model is to read them",
                              "write it into the prompts (clf.py: use --template)")),
    ("max_seq_length max_length model_max_length max_len block_size", _LIMITS),
    ("max_input_length max_source_len max_prompt_length",
     ("tokens of a prompt", "use --max_source_length")),
    ("max_output_length max_target_len max_answer_length",
     ("tokens of a completion", "use --max_target_length")),
    ("validation_split_percentage validation_split test_size val_size eval_ratio",
     ("a share of the train records", "use --eval_fraction, as 0.1")),
    ("pad_to_max_length pad_to_multiple_of ignore_pad_token_for_loss",
     ("as little padding as there can be, in no loss", "leave it out")),
    ("max_train_samples max_eval_samples max_val_samples max_predict_samples max_samples",
     _WHOLE_DATA),
    ("overwrite_cache", ("tokens that are made anew where the data changed", "leave it out")),
    ("preprocessing_num_workers num_proc num_workers dataloader_num_workers "
     "dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
     "dataloader_drop_last streaming remove_unused_columns label_names", _READ_ONCE),
    ("group_by_length length_column_name sortish_sampler train_sampling_strategy shuffle",
     _SORTED),
    ("data_seed", ("one seed for all that is drawn", "use --seed")),
    # what is done
    ("do_train", ("a run that trains unless it is told --no_train", "leave it out")),
    ("do_eval", ("evaluations in every run", "leave it out; --eval_steps says how often")),
    ("do_predict", ("answers to all eval records in every evaluation",
                    "leave it out; to answer alone use --no_train")),
    ("eval_only evaluate predict test_only", ("an evaluation alone", "use --no_train")),
    ("predict_with_generate", ("answers in every evaluation of seq2seq.py", "leave it out")),
    ("output_dir run_name experiment_name exp_name save_dir", _RUN_NAME),
    ("overwrite_output", ("a run that begins again", "use --overwrite_output_dir")),
    ("resume resume_from", ("a run that goes on by itself",
                            "leave it out, or use --resume_from_checkpoint RUN")),
    # the batch and the length of the run
    ("per_device_train_batch_size per_gpu_train_batch_size",
     (_BATCH, "use --train_batch_size, and --micro_batch_tokens to bound memory")),
    ("batch_size bs train_bs", (_BATCH, "use --train_batch_size")),
    ("per_device_eval_batch_size per_gpu_eval_batch_size eval_bs",
     ("the evaluation batch", "use --eval_batch_size")),
    ("auto_find_batch_size", ("a micro-batch that is found by itself",
                              "leave it out, with --micro_batch_tokens auto")),
    ("gradient_accumulation accumulation_steps grad_accum grad_acc_steps "
     "accumulate_grad_batches", _ACCUMULATION),
    ("epochs num_epochs n_epochs epoch max_epochs", _EPOCHS),
    ("steps num_steps num_train_steps max_train_steps train_steps", _STEPS),
    # the optimizer
    ("lr", _RATE),
    ("warmup_ratio warmup_proportion warmup",
     ("steps of warm-up, or below 1 a share of the run", "use --warmup_steps")),
    ("lr_scheduler scheduler", ("a schedule by its name", "use --lr_scheduler_type")),
    ("adafactor optimizer", ("an optimizer by its name", "use --optim, as --optim adafactor")),
    ("adam_beta1 adam_beta2 adam_epsilon optim_args", _ADAM),
    ("clip_grad_norm max_norm gradient_clipping grad_clip",
     ("a norm that gradients are scaled down to", "use --max_grad_norm")),
    ("wd", ("the decay of weights", "use --weight_decay")),
    ("label_smoothing", ("the share of each target", "use --label_smoothing_factor")),
    ("dropout", ("dropout while training", "use --dropout_rate")),
    # evaluation and decoding
    ("eval_strategy evaluation_strategy evaluate_during_training eval_every", _EACH_STEP),
    ("logging_strategy log_every", ("a line every so many steps", "use --logging_steps")),
    ("eval_delay", ("an evaluation before the first step", "use --eval_on_start false")),
    ("eval_accumulation_steps batch_eval_metrics include_for_metrics prediction_loss_only "
     "logging_first_step log_level disable_tqdm logging_nan_inf_filter skip_memory_metrics",
     _BY_ITSELF),
    ("early_stopping early_stopping_patience early_stopping_threshold patience", _WHOLE_RUN),
    ("generation_max_length val_max_target_length max_gen_length max_generate_length "
     "gen_max_len max_generation_length", _NEW_TOKENS),
    ("generation_num_beams beams beam_size num_beam eval_beams", _BEAMS),
    ("do_sample", ("a temperature", "use --temperature: from 0.01 on tokens are drawn")),
    ("num_return_sequences num_samples", ("the number of answers", "use --n_samples")),
    ("length_penalty", ("beams without a length penalty", "leave it out")),
    # checkpoints and trackers
    ("save_strategy save_every", ("a checkpoint every so many steps", "use --save_steps")),
    ("load_best_model_at_end greater_is_better",
     ("the best checkpoint beside the newest",
      "leave it out; --metric_for_best_model says what it is best in")),
    ("save_only_model save_safetensors save_on_each_node", _BY_ITSELF),
    ("push_to_hub hub_model_id hub_strategy hub_private_repo", _NO_UPLOAD),
    ("logging_dir", ("events in the run's folder",
                     "leave it out; --report_to tensorboard writes them")),
    ("use_wandb use_tensorboard", ("trackers by their names", "use --report_to")),
    ("wandb_project wandb_entity", _WANDB),
    # precision and processes
    ("fp16", ("bf16 or fp32: T5 overflows in fp16 from the large size up",
              "use --bf16 true, or --bf16 false for fp32")),
    ("fp16_opt_level fp16_backend fp16_full_eval half_precision_backend bf16_full_eval "
     "mixed_precision precision torch_dtype dtype amp", _FP32),
    ("tf32", ("products as PyTorch's own setting has them", "leave it out")),
    ("torch_compile torch_compile_backend torch_compile_mode use_liger_kernel "
     "attn_implementation use_flash_attention flash_attn jit_mode_eval", _AS_WRITTEN),
    ("gradient_checkpointing_kwargs use_reentrant",
     ("true or false alone", "use --gradient_checkpointing")),
    ("deepspeed_config ds_config deepspeed_file",
     ("a JSON file of DeepSpeed", "use --deepspeed FILE")),
    ("fsdp fsdp_config fsdp_transformer_layer_cls_to_wrap",
     ("DeepSpeed's ZeRO", "use --zero_stage, with 3 as full shards")),
    ("zero zero_optimization stage", ("what processes divide", "use --zero_stage")),
    ("cpu_offload offload_optimizer", ("what rests in the host's memory", "use --offload")),
    ("no_cuda use_cpu use_mps_device", _ON_CPU),
    ("device gpu gpus n_gpu num_gpus gpu_ids",
     ("every GPU that is visible", "set CUDA_VISIBLE_DEVICES, or use --num_processes")),
    ("ddp_backend ddp_find_unused_parameters ddp_timeout ddp_bucket_cap_mb accelerator_config "
     "world_size master_port master_addr", _LAUNCHED),
)  # fmt: skip

FOREIGN = {name: said for names, said in _GROUPS for name in names.split()}
"""What is expected instead of a flag, and how to get it."""
